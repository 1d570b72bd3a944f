"""RunRecord: what happened, as ``run.json`` beside the stages; the report is made from it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import yaml

from pipeline.artifacts import Artifact, Gate, Hop
from pipeline.config import ChainConfig
from pipeline.device import Device
from pipeline.environment import describe_environment
from pipeline.errors import Interrupted
from pipeline.files import write_atomic
from pipeline.plan import Step

STATUS = {
    "run": "ran",
    "resume": "ran",
    "cached": "cached",
    "given": "cached",
    "skip": "not reached",
}


@dataclass
class StageRecord:
    """What happened to one stage."""

    name: str
    uses: str
    status: str = "not reached"
    reason: str = ""
    started: float = 0.0
    seconds: float = 0.0
    """Of work; for a stage that is served from cache, of the run in which it worked."""
    error: str = ""
    gates: tuple[Gate, ...] = ()
    hops: tuple[Hop, ...] = ()

    def take(self, artifact: Artifact, *, worked: bool) -> None:
        """Note what the stage promised and measured, and how long it worked if it did."""
        if worked:
            self.seconds = round(time.time() - self.started, 3)
        self.gates, self.hops = artifact.gates, artifact.hops


@dataclass
class RunRecord:
    """What happened to the run; written after every stage."""

    name: str
    file: str
    folder: Path
    max_drop: float | None
    started: float = field(default_factory=time.time)
    finished: float | None = None
    status: str = "running"
    stages: list[StageRecord] = field(default_factory=list)

    @classmethod
    def begin(cls, chain: ChainConfig, device: Device, folder: Path) -> RunRecord:
        """Start a record; saves the resolved configuration and the environment beside it."""
        text = yaml.safe_dump(chain.resolved(), sort_keys=False, allow_unicode=True)
        write_atomic(folder / "config.yaml", text)
        environment = describe_environment(device, chain.settings.seed)
        write_atomic(folder / "environment.json", json.dumps(environment, indent=1))
        record = cls(
            name=chain.settings.name,
            file=chain.file,
            folder=folder,
            max_drop=chain.settings.max_drop,
        )
        before = _seconds_before(folder)
        record.stages = [
            StageRecord(name=e.name, uses=e.uses, seconds=before.get(e.name, 0.0))
            for e in chain.stages
        ]
        record.save()
        return record

    @contextmanager
    def stage(self, name: str, uses: str, step: Step) -> Iterator[StageRecord]:
        """Record one stage, however it ends."""
        record = next(r for r in self.stages if r.name == name)
        record.started, record.reason = time.time(), step.reason
        try:
            yield record
            record.status = STATUS[step.action]
        except BaseException as error:
            record.status = "interrupted" if isinstance(error, Interrupted) else "failed"
            record.seconds = round(time.time() - record.started, 3)
            record.error = str(error)
            with suppress(OSError):  # a full disk must not hide what failed
                self.save()
            raise
        self.save()

    @property
    def gates(self) -> list[tuple[str, Gate]]:
        """Every gate with its stage's name, the accuracy budget of the whole chain last."""
        gates = [(stage.name, gate) for stage in self.stages for gate in stage.gates]
        budget = self._budget()
        return [*gates, ("chain", budget)] if budget else gates

    @property
    def hops(self) -> list[tuple[str, Hop]]:
        """Every hop with its stage's name, in order."""
        return [(stage.name, hop) for stage in self.stages for hop in stage.hops]

    @property
    def failed_gates(self) -> list[tuple[str, Gate]]:
        """The gates that did not hold."""
        return [(stage, gate) for stage, gate in self.gates if not gate.passed]

    def finish(self) -> None:
        """Close the record."""
        self.finished = time.time()
        states = {stage.status for stage in self.stages}
        bad = [state for state in ("failed", "interrupted") if state in states]
        self.status = bad[0] if bad else "finished"
        self.save()

    def save(self) -> None:
        """Write ``run.json``."""
        stages = []
        for stage in self.stages:
            shown = asdict(stage)
            del shown["gates"], shown["hops"]
            stages.append(shown)
        verdict = "running"
        if self.finished is not None:
            verdict = "failed" if self.failed_gates or self.status != "finished" else "passed"
        document = {
            "name": self.name,
            "config_folder": str(Path(self.file).resolve().parent),
            "started": self.started,
            "finished": self.finished,
            "status": self.status,
            "verdict": verdict,
            "stages": stages,
            "gates": [{"stage": stage, **asdict(gate)} for stage, gate in self.gates],
            "hops": [{"stage": stage, **asdict(hop)} for stage, hop in self.hops],
            "commands": self._commands(),
        }
        write_atomic(self.folder / "run.json", json.dumps(document, indent=1))

    def _budget(self) -> Gate | None:
        hops = [hop for _, hop in self.hops]
        if self.max_drop is None or len(hops) < 2:
            return None
        lost = [100 * (a.top1 - b.top1) for a, b in pairwise(hops)]
        drop = 100 * (hops[0].top1 - hops[-1].top1)
        worst = max(range(len(lost)), key=lost.__getitem__)
        change = f"{'gains' if round(drop, 2) < 0 else 'loses'} {abs(drop):.2f}"
        costliest = (
            f"the hop to {hops[worst + 1].name} costs most ({lost[worst]:.2f})"
            if lost[worst] > 0
            else "no hop loses any"
        )
        return Gate(
            name="accuracy budget",
            passed=drop <= self.max_drop,
            value=round(drop, 3),
            limit=self.max_drop,
            unit="points",
            message=f"{hops[0].name} to {hops[-1].name} {change} points; {costliest}.",
        )

    def _commands(self) -> list[str]:
        file = shlex.quote(self.file)
        return [f"dlpipe run {file}", *(f"dlpipe stage {s.name} {file}" for s in self.stages)]


def _seconds_before(folder: Path) -> dict[str, float]:
    """Return how long each stage worked, as the record of the run before says; {} without one."""
    try:
        stages = json.loads((folder / "run.json").read_text(encoding="utf-8"))["stages"]
        return {str(stage["name"]): float(stage["seconds"]) for stage in stages}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
