"""Processes: a pipeline over the cores of one host: a process a stage, and memory that all share.

    gradients = Processes(setup, threads=1)
    loss = gradients.backward(batch, scaler, step)

This process runs the last stage, because it has labels and loss. Parameters, buffers and gradients
of the others lie in shared memory, so that optimizer, average, checkpoint and evaluation here see
one ordinary network.
"""

from __future__ import annotations

import pickle
from multiprocessing.reduction import send_handle

import torch

from pipeline.errors import StageFailed
from stages.augment.loader import Batch
from stages.train.gpipe.bell import NobodyThere
from stages.train.gpipe.board import Board
from stages.train.gpipe.cell import Cell
from stages.train.gpipe.courier import cpu_seconds_of, timeline_of, work_off
from stages.train.gpipe.crew import Crew
from stages.train.gpipe.layout import lay_slots
from stages.train.gpipe.messages import Build, Done, Mode, Step
from stages.train.gpipe.probe import probe
from stages.train.gpipe.randomness import generators_kept
from stages.train.gpipe.setup import Loss, Setup
from stages.train.gpipe.shared import Shared
from stages.train.gpipe.sharing import SharedStages
from stages.train.gpipe.slots import SlotCourier
from stages.train.gpipe.timeline import Timeline
from stages.train.gpipe.wiring import Wiring
from stages.train.micro_batches import Piece, split_batch

_START_S = 300.0
"""How long processes may take to start: a busy machine reads torch from its disk for a minute."""


class Processes:
    """Computes gradients with one process a stage; at least two stages, on CPUs."""

    def __init__(self, setup: Setup, *, threads: int) -> None:
        """Start the processes.

        Args:
            setup: the pipeline.
            threads: of torch, in each process while it works on its stage.

        Raises:
            StageFailed: a process did not start, or the layers cannot be sent to it.
        """
        self.setup, self._threads = setup, threads
        last = setup.stages - 1
        self._works = [setup.works(stage) for stage in range(setup.stages)]
        self._board = Board([len(works) for works in self._works])
        self._shared = SharedStages([setup.blocks(stage) for stage in range(setup.stages)])
        self._loss = Loss(setup.label_smoothing)
        self._cell = Cell(
            setup.blocks(last), setup.cell_plan(last), torch.device("cpu"), self._loss
        )
        self._modes: dict[int, Mode] = {}
        self._fits: tuple[torch.Size, torch.dtype] | None = None
        packed = [self._pack(stage) for stage in range(last)]
        names = {stage: setup.name(stage) for stage in range(last)}
        self._crew = Crew(names, threads=threads, timeout_s=setup.timeout_s)
        self._wiring = Wiring(setup.stages)
        try:
            self._build(packed)
        except BaseException:
            self.close(at_once=True)
            raise

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, step: int) -> torch.Tensor:
        """Add the gradient of the scaled mean loss to every parameter's ``grad``.

        Raises:
            ConfigError: the batch has fewer samples than there are micro-batches.
            StageFailed: a process failed, died, or kept its neighbours waiting for too long.
        """
        if not self._crew.members:
            raise StageFailed("train: the processes of the pipeline have ended. Start again.")
        pieces = split_batch(batch, self.setup.micro_batches)
        threads = torch.get_num_threads()
        try:
            self._fit(pieces)
            torch.set_num_threads(self._threads)
            self._step(pieces, scaler, step)
        except BaseException:
            self.close(at_once=True)
            raise
        finally:
            torch.set_num_threads(threads)
        return self._loss.total

    @property
    def timeline(self) -> Timeline:
        """The step measured last."""
        return timeline_of(self._works, [stamps for _, stamps in self._board.notes])

    @property
    def cpu_s(self) -> tuple[float, ...]:
        """CPU seconds of each stage in that step."""
        return tuple(cpu_seconds_of(stamps) for _, stamps in self._board.notes)

    def close(self, *, at_once: bool = False) -> None:
        """End the processes; a second call does nothing."""
        if self._crew.members:
            self._crew.close(at_once=at_once)
            self._wiring.close()
            self._free()

    def _free(self) -> None:
        for memory in (self._shared.memory, self._board.memory):
            memory.close()

    def _pack(self, stage: int) -> bytes:
        try:
            return self._shared.pack(stage)
        except (AttributeError, TypeError, ValueError, pickle.PicklingError) as error:
            self._free()
            raise StageFailed(
                f"train.parallel.engine: processes sends layers to other processes, and "
                f"{self.setup.name(stage)} cannot be sent: {error}. Define its classes and "
                "functions at the top level of a module that can be imported, or use engine: "
                "devices."
            ) from error

    def _build(self, packed: list[bytes]) -> None:
        setup, shared, board = self.setup, self._shared, self._board
        for member in self._crew.members:
            build = Build(
                plan=setup.cell_plan(member.stage),
                works=self._works[member.stage],
                blocks=packed[member.stage],
                tensors=shared.records[member.stage],
                memory_bytes=shared.memory.num_bytes,
                board_bytes=board.memory.num_bytes,
                board_offset=board.offset(member.stage),
                threads=self._threads,
                deterministic=torch.are_deterministic_algorithms_enabled(),
                matmul_precision=torch.get_float32_matmul_precision(),
                timeout_s=setup.timeout_s,
            )
            self._crew.send_to(member, build)
            for memory in (shared.memory, board.memory):
                send_handle(member.control, memory.fd, member.process.pid)
            self._wiring.send(member)
        bells = self._wiring.keep_last(self._crew.lines)
        waits, self._stamps = board.notes[-1]
        self._courier = SlotCourier(bells, setup.timeout_s, waits)
        self._crew.replies(_START_S)

    def _fit(self, pieces: tuple[Piece, ...]) -> None:
        """Lay out slots for batches of this size, once."""
        shape = torch.Size((sum(len(p.inputs) for p in pieces), *pieces[0].inputs.shape[1:]))
        key = (shape, pieces[0].inputs.dtype)
        if key == self._fits:
            return
        setup = self.setup
        sizes = [len(piece.inputs) for piece in pieces]
        probed = {
            len(piece.inputs): probe(setup.chain, piece.inputs, setup.precision, setup.device)
            for piece in (pieces[0], pieces[-1])
        }
        slots = lay_slots(probed, sizes, setup.bounds)
        memory = Shared.of_size(slots[0].num_bytes)
        for member in self._crew.members:
            self._crew.send_to(member, slots[member.stage])
            send_handle(member.control, memory.fd, member.process.pid)
        self._courier.use(slots[-1], memory)
        self._inputs = [memory.tensor(place) for (place,) in slots[0].inputs]
        memory.close()
        self._crew.replies()
        self._fits = key

    def _step(self, pieces: tuple[Piece, ...], scaler: torch.amp.GradScaler, step: int) -> None:
        self._board.clear()
        earlier = self._shared.set_aside()
        for slot, piece in zip(self._inputs, pieces, strict=True):
            slot.copy_(piece.inputs)
        for member in self._crew.members:
            mode = self._shared.mode(member.stage)
            is_new = mode != self._modes.get(member.stage)
            self._crew.send_to(member, Step(step, mode if is_new else None))
            self._modes[member.stage] = mode
        self._loss.begin(pieces, scaler)
        try:
            with generators_kept({torch.device("cpu")}), self._cell.step(step):
                work_off(self._cell, self._works[-1], self._courier, self._stamps)
        except NobodyThere:
            raise self._crew.failure() from None
        except TimeoutError:
            stage = min(self._board.silent_stage(), self.setup.stages - 2)
            raise self._crew.silence(stage) from None
        replies = self._crew.replies()
        unused = {stage: r.unused for stage, r in replies.items() if isinstance(r, Done)}
        self._shared.collect(unused, earlier)
