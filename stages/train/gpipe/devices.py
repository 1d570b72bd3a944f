"""Devices: a pipeline in one process: a thread a stage, each on its own device.

    gradients = Devices(setup, [torch.device("cuda", 0), torch.device("cuda", 1)])
    loss = gradients.backward(batch, scaler, step)

The calling thread runs the last stage, so that labels and loss stay where they are. Several stages
may share one device: a CPU, where this engine serves to check the others.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from pipeline.errors import DlpipeError, StageFailed
from stages.augment.loader import Batch, Mix
from stages.train.gpipe.cell import Cell, Grads
from stages.train.gpipe.chain import Carry
from stages.train.gpipe.courier import cpu_seconds_of, empty_stamps, timeline_of, work_off
from stages.train.gpipe.randomness import generators_kept
from stages.train.gpipe.replicas import Replica
from stages.train.gpipe.setup import Loss, Setup
from stages.train.gpipe.stream import Link, Parcel, link
from stages.train.gpipe.timeline import Timeline
from stages.train.micro_batches import Piece, split_batch


class _Aborted(Exception):
    """Another stage has failed; this one only stops."""


class _Waited(TimeoutError):
    """A neighbour did not answer in time."""


@dataclass(frozen=True, slots=True)
class _Lane:
    """One direction of one boundary, in order of micro-batches."""

    link: Link
    parcels: queue.SimpleQueue[Parcel | None]
    timeout_s: float

    def give(self, tensors: tuple[torch.Tensor | None, ...]) -> None:
        self.parcels.put(self.link.pack(tensors))

    def take(self) -> tuple[torch.Tensor | None, ...]:
        try:
            parcel = self.parcels.get(timeout=self.timeout_s)
        except queue.Empty:
            raise _Waited(f"its neighbour gave no answer for {self.timeout_s:g} s") from None
        if parcel is None:
            raise _Aborted
        return self.link.unpack(parcel)


@dataclass(slots=True)
class _QueueCourier:
    """Brings and takes what one stage works on."""

    inputs: _Lane | None
    outputs: _Lane | None
    back_in: _Lane | None
    back_out: _Lane | None
    device: torch.device
    pieces: tuple[Piece, ...] = ()

    def take_forward(self, m: int) -> Carry:
        if self.inputs is None:
            return (self.pieces[m].inputs.to(self.device, non_blocking=True),)
        return tuple(tensor for tensor in self.inputs.take() if tensor is not None)

    def give_forward(self, m: int, carry: Carry) -> None:
        if self.outputs is not None:
            self.outputs.give(carry)

    def take_backward(self, m: int) -> Grads | None:
        return None if self.back_in is None else self.back_in.take()

    def give_backward(self, m: int, grads: Grads) -> None:
        if self.back_out is not None:
            self.back_out.give(grads)


class Devices:
    """Computes gradients with one thread a stage."""

    def __init__(
        self, setup: Setup, devices: Sequence[torch.device], *, replicate: bool = False
    ) -> None:
        """Start the threads.

        Args:
            setup: the pipeline; its network is on the first device.
            devices: one for each stage.
            replicate: work with copies of the blocks even on the first device.
        """
        self.setup, self._devices = setup, devices
        stages = range(setup.stages)
        self._loss = Loss(setup.label_smoothing)
        self._works = [setup.works(stage) for stage in stages]
        self._stamps = [empty_stamps(len(works)) for works in self._works]
        self._replicas = {
            k: Replica(setup.blocks(k), devices[k], setup.chain)
            for k in stages
            if replicate or devices[k] != devices[0]
        }
        self._cells = [
            Cell(
                self._replicas[k].blocks if k in self._replicas else setup.blocks(k),
                setup.cell_plan(k),
                devices[k],
                self._loss if k == stages[-1] else None,
            )
            for k in stages
        ]
        self._steps: list[queue.SimpleQueue[int | None]] = [queue.SimpleQueue() for _ in stages]
        self._done: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()
        self._num_threads = torch.get_num_threads()
        self._threads = [
            threading.Thread(target=self._serve, args=(k,), name=f"dlpipe stage {k}", daemon=True)
            for k in stages[:-1]
        ]
        self._connect()
        for thread in self._threads:
            thread.start()

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, step: int) -> torch.Tensor:
        """Add the gradient of the scaled mean loss to every parameter's ``grad``.

        Raises:
            ConfigError: the batch has fewer samples than there are micro-batches.
            StageFailed: a stage failed, or kept its neighbours waiting for too long.
        """
        last, home = self.setup.stages - 1, self._devices[0]
        pieces = split_batch(_with_labels_on(self._devices[last], batch), self.setup.micro_batches)
        self._loss.begin(pieces, scaler)
        self._couriers[0].pieces = pieces
        for replica in self._replicas.values():
            replica.fetch()
        with generators_kept(set(self._devices)):
            for steps in self._steps[:-1]:
                steps.put(step)
            outcomes = {last: self._work(last, step)} | self._outcomes()
        errors = {k: e for k, e in outcomes.items() if e and not isinstance(e, _Aborted)}
        if errors:
            self._connect()  # what is left in the queues belongs to this step
            self._raise(errors)
        for replica in self._replicas.values():
            replica.hand_in()
        return self._loss.total.to(home, non_blocking=True)

    @property
    def timeline(self) -> Timeline:
        """The step measured last."""
        return timeline_of(self._works, self._stamps)

    @property
    def cpu_s(self) -> tuple[float, ...]:
        """CPU seconds of each stage in that step."""
        return tuple(map(cpu_seconds_of, self._stamps))

    def close(self) -> None:
        """End the threads."""
        for steps in self._steps:
            steps.put(None)
        for thread in self._threads:
            thread.join()

    def _connect(self) -> None:
        """Lay empty lanes between neighbours."""
        devices, timeout_s = self._devices, self.setup.timeout_s
        ahead: list[_Lane | None] = [None]
        back: list[_Lane | None] = [None]
        for source, target in pairwise(devices):
            ahead.append(_Lane(link(source, target), queue.SimpleQueue(), timeout_s))
            back.append(_Lane(link(target, source), queue.SimpleQueue(), timeout_s))
        ahead, back = [*ahead, None], [*back, None]
        self._couriers = [
            _QueueCourier(ahead[k], ahead[k + 1], back[k + 1], back[k], device)
            for k, device in enumerate(devices)
        ]
        self._lanes = [lane for lane in (*ahead, *back) if lane is not None]

    def _serve(self, stage: int) -> None:
        # A new thread takes OpenMP's default, and bits depend on the number.
        torch.set_num_threads(self._num_threads)
        if self._devices[stage].type == "cuda":
            torch.cuda.set_device(self._devices[stage])
        while (step := self._steps[stage].get()) is not None:
            self._done.put((stage, self._work(stage, step)))

    def _work(self, stage: int, step: int) -> BaseException | None:
        """Work one step off; return what went wrong, after telling the other stages to stop."""
        try:
            with self._cells[stage].step(step):
                cell, courier = self._cells[stage], self._couriers[stage]
                work_off(cell, self._works[stage], courier, self._stamps[stage])
        except BaseException as error:  # it is raised again by the calling thread
            for lane in self._lanes:
                lane.parcels.put(None)
            return error
        return None

    def _outcomes(self) -> dict[int, BaseException | None]:
        """Wait for all threads; one that gives no sign is not waited for any longer."""
        outcomes: dict[int, BaseException | None] = {}
        silent = TimeoutError(f"it gave no sign for {self.setup.timeout_s:g} s")
        try:
            for _ in self._threads:
                stage, error = self._done.get(timeout=self.setup.timeout_s)
                outcomes[stage] = error
        except queue.Empty:
            return dict.fromkeys(range(len(self._threads)), silent) | outcomes
        return outcomes

    def _raise(self, errors: dict[int, BaseException]) -> None:
        # One that only waited for another in vain is not the one to name.
        stage = min(errors, key=lambda k: isinstance(errors[k], _Waited))
        error = errors[stage]
        if isinstance(error, DlpipeError) or not isinstance(error, Exception):
            raise error
        raise StageFailed(
            f"train: {self.setup.name(stage)} of the pipeline failed: {type(error).__name__}: "
            f"{error}. The same command resumes from the last checkpoint."
        ) from error


def _with_labels_on(device: torch.device, batch: Batch) -> Batch:
    """Return the batch with its labels where the loss is; images stay."""
    mix = batch.mix
    if mix is not None:
        mix = Mix(mix.partner.to(device), mix.weight.to(device))
    return replace(batch, targets=batch.targets.to(device), mix=mix)
