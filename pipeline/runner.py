"""Runner: takes a chain through its plan, files what comes out, and leaves a run that can go on.

The first failure stops the chain; artifacts so far are kept, and the same command goes on from
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pipeline.artifacts import Artifact, TrainedModel
from pipeline.check import chain_warnings, check_chain, resolve_chain_device
from pipeline.config import ChainConfig, StageEntry
from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import DlpipeError, Interrupted, StageFailed
from pipeline.events import EventLog, JsonLines, Listener
from pipeline.failure import folder_failure, stage_failure
from pipeline.inputs import load_inputs
from pipeline.interrupt import StopFlag, catch_signals
from pipeline.lock import hold_lock
from pipeline.plan import WORK, Range, Step, check_inputs, plan_outside, plan_step
from pipeline.ranks import RANKS_FOLDER, Leader, Place
from pipeline.record import RunRecord, StageRecord
from pipeline.rehearsal import Rehearsal
from pipeline.report.report import write_report
from pipeline.run_folder import RunFolder
from pipeline.store import load_artifact, save_artifact


@dataclass
class Runner:
    """One run of one chain in one folder."""

    chain: ChainConfig
    folder: RunFolder
    wanted: Range = field(default_factory=Range)
    listeners: tuple[Listener, ...] = ()
    stop: StopFlag = field(default_factory=StopFlag)
    place: Place = field(default_factory=Place)
    """Of the processes that run this command together, the first runs the chain."""
    _leader: Leader | None = None

    def run(self) -> RunRecord:
        """Run the wanted stages and write the report; returns what happened to each.

        Raises:
            ConfigError: the configuration cannot run here; nothing was started.
            RunLocked: another process works in the folder.
            Interrupted: a signal stopped it; the same command goes on.
            DlpipeError: a stage failed; the record and the report are written all the same.
        """
        device = resolve_chain_device(self.chain)
        entries = self.chain.stages
        active = [entries[position] for position in self.wanted.of(entries)]
        check_chain(self.chain, device, active)
        self.folder.create()
        try:
            with hold_lock(self.folder.path), catch_signals(self.stop), self._leading():
                return self._run_alone(device)
        except OSError as error:  # from outside of any stage: the run's own files
            raise folder_failure(self.folder.path, error) from error

    @contextmanager
    def _leading(self) -> Iterator[None]:
        """Keep the other processes of this run at hand, and let them go at the end."""
        if self.place.world == 1:
            yield
            return
        self._leader = Leader(self.folder.path / RANKS_FOLDER, self.place)
        exit_code = StageFailed.exit_code
        with self._leader.at_work():
            try:
                yield
                exit_code = 0
            except DlpipeError as error:
                exit_code = error.exit_code
                raise
            finally:
                self._leader.dismiss(exit_code)

    def _call(self, stage: str) -> None:
        if self._leader is not None:
            self._leader.call(stage, self.stop)

    def _run_alone(self, device: Device) -> RunRecord:
        """Run with the folder to ourselves."""
        for entry in self.chain.stages:
            self.folder.recover(entry.name)
        check_inputs(self.chain, self.folder, self.wanted.of(self.chain.stages))
        record = RunRecord.begin(self.chain, device, self.folder.path)
        log = EventLog((JsonLines(self.folder.path / "events.jsonl"), *self.listeners))
        try:
            self._run_stages(device, record, log)
        except BaseException:
            # Why the run ended matters more than why its report could not be written.
            with suppress(OSError, DlpipeError):
                self._close(record)
            raise
        self._close(record)
        return record

    def _close(self, record: RunRecord) -> None:
        record.finish()
        write_report(self.folder.path)

    def _run_stages(self, device: Device, record: RunRecord, log: EventLog) -> None:
        positions = self.wanted.of(self.chain.stages)
        for warning in chain_warnings([self.chain.stages[position] for position in positions]):
            log.warning(str(warning))
        steps: list[Step] = []
        for position, entry in enumerate(self.chain.stages):
            if position not in positions:
                step = plan_outside(entry, self.folder, before=position < positions.start)
            else:  # planned anew: what ran before it is on disk now
                step = plan_step(
                    self.chain, entry, steps, self.folder, device, force=self.wanted.force
                )
            with record.stage(entry.name, entry.uses, step) as stage_record:
                self._take(step, device, stage_record, log)
            done = Step(entry=entry, action="cached", reason="", fingerprint=step.fingerprint)
            steps.append(step if step.action == "skip" else done)

    def _take(self, step: Step, device: Device, record: StageRecord, log: EventLog) -> None:
        """Run one stage, or take what is there."""
        entry = step.entry
        events = EventLog(log.listeners, stage=entry.name)
        events.emit("stage", action=step.action, reason=step.reason)
        if step.action in WORK:
            self.stop.check()
            self._run_stage(step, device, events)
        if step.action != "skip":
            artifact: Artifact = load_artifact(entry.stage.produces, self.folder.stage(entry.name))
            record.take(artifact, worked=step.action in WORK)
            for gate in artifact.gates:
                events.emit("gate", name=gate.name, passed=gate.passed, message=gate.message)
            events.emit("stage end", action=step.action, seconds=record.seconds)

    def _run_stage(self, step: Step, device: Device, events: EventLog) -> None:
        entry = step.entry
        assert step.fingerprint is not None
        try:
            partial = self.folder.begin(entry.name, step.fingerprint).absolute()
            context = Context(
                dir=partial,
                device=device,
                seed=self.chain.settings.seed,
                artifacts=load_inputs(self.chain, entry, self.folder),
                events=events,
                stop=self.stop,
                call=lambda: self._call(entry.name),
                rehearse=lambda untrained: self._rehearse(entry, untrained, device, events),
            )
            artifact = entry.build().run(context)
            if not isinstance(artifact, entry.stage.produces):
                raise StageFailed(
                    f"returned a {type(artifact).__name__}, not the "
                    f"{entry.stage.produces.__name__} it promises"
                )
            save_artifact(artifact, partial)
            self.folder.finish(entry.name)
        except Interrupted:
            raise
        except DlpipeError as error:
            error.args = (f"stages.{entry.name}: {error}",)
            raise
        except Exception as error:  # the one place that may: names the stage, keeps the trace
            raise stage_failure(entry.name, error, self.folder.path) from error

    def _rehearse(
        self, entry: StageEntry, untrained: TrainedModel, device: Device, events: EventLog
    ) -> None:
        later = self._later(entry)
        rehearsal = Rehearsal(
            folder=self.folder.path.absolute() / ".rehearsal",
            context=Context(
                dir=self.folder.path,
                device=device,
                seed=self.chain.settings.seed,
                artifacts=load_inputs(self.chain, entry, self.folder) | {TrainedModel: untrained},
                events=events,
                stop=self.stop,
            ),
        )
        rehearsal.run(later)

    def _later(self, entry: StageEntry) -> Sequence[StageEntry]:
        positions = self.wanted.of(self.chain.stages)
        own = self.chain.stages.index(entry)
        return [self.chain.stages[position] for position in positions if position > own]
