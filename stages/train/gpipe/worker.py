"""Worker: the process of one stage. Started by `crew`, it serves until its control line closes.

    python -m stages.train.gpipe.worker DESCRIPTOR PARENT

It holds no files and outlives nobody: when the process in charge ends, however it ends, so does it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

import torch

from pipeline.errors import ConfigError
from stages.train.gpipe.bell import Listener, NobodyThere, Ringer
from stages.train.gpipe.board import notes_of
from stages.train.gpipe.cell import Cell
from stages.train.gpipe.courier import work_off
from stages.train.gpipe.messages import (
    Build,
    Done,
    Failed,
    Mode,
    Ready,
    Slots,
    Step,
    open_tensors,
    unpack_blocks,
)
from stages.train.gpipe.shared import Shared
from stages.train.gpipe.slots import Bells, SlotCourier

_PR_SET_PDEATHSIG = 1


class Worker:
    """A stage that was built from a message."""

    def __init__(self, build: Build, control: Connection) -> None:
        memory = Shared(recv_handle(control), build.memory_bytes)
        board = Shared(recv_handle(control), build.board_bytes)
        self._works = build.works
        waits, self._stamps = notes_of(board, build.board_offset, len(build.works))
        self._tensors = open_tensors(build.tensors, memory)
        self._all_grads = {
            number: memory.tensor(record.grad)
            for number, record in enumerate(build.tensors)
            if record.grad is not None
        }
        self._grads: list[torch.Tensor] = []
        self._unused: tuple[int, ...] | None = None
        self._cell = Cell(
            unpack_blocks(build.blocks, self._tensors), build.plan, torch.device("cpu")
        )
        bells = _receive_bells(build.plan.stage, control)
        self._courier = SlotCourier(bells, build.timeout_s, waits)
        self._courier.before_backward = self._clear_grads

    def use(self, slots: Slots, control: Connection) -> None:
        """Use other slots from now on."""
        memory = Shared(recv_handle(control), slots.num_bytes)
        self._courier.use(slots, memory)
        memory.close()

    def step(self, number: int, mode: Mode | None) -> Done:
        """Work one mini-batch off."""
        if mode is not None:
            self._change(mode)
        with self._cell.step(number):
            work_off(self._cell, self._works, self._courier, self._stamps)
        if self._unused is None:
            self._unused = self._adopt_grads()
        return Done(self._unused)

    def _change(self, mode: Mode) -> None:
        for tensor, learns in zip(self._tensors, mode.learns, strict=True):
            tensor.requires_grad_(learns)
            tensor.grad = None
        parts = (part for block in self._cell.blocks for part in block.module.modules())
        for part, training in zip(parts, mode.training, strict=True):
            part.training = training
        self._unused, self._grads = None, []

    def _clear_grads(self) -> None:
        """Empty the shared gradients, in the pause that every pipeline has at its turning point."""
        if self._grads:
            torch._foreach_zero_(self._grads)

    def _adopt_grads(self) -> tuple[int, ...]:
        """After the first step: let autograd add to shared memory from now on.

        Only now is it known which parameters take part; an optimizer leaves the others alone.
        """
        unused = []
        for number, shared in self._all_grads.items():
            parameter = self._tensors[number]
            if parameter.grad is None:
                unused.append(number)
            else:
                shared.copy_(parameter.grad)
                parameter.grad = shared
                self._grads.append(shared)
        return tuple(unused)


def serve(control: Connection) -> None:
    """Answer messages until the line closes."""
    worker: Worker | None = None
    while True:
        try:
            message: object = control.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if isinstance(message, Build):
                _like_the_parent(message)
                worker = Worker(message, control)
                gc.collect()
                gc.freeze()
                control.send(Ready())
            elif isinstance(message, Slots) and worker is not None:
                worker.use(message, control)
                control.send(Ready())
            elif isinstance(message, Step) and worker is not None:
                control.send(worker.step(message.number, message.mode))
        except (NobodyThere, TimeoutError):
            continue  # whoever is in charge knows more, and ends this process
        except Exception as error:
            said = str(error) if isinstance(error, ConfigError) else _in_words(error)
            control.send(Failed(said, traceback.format_exc(), isinstance(error, ConfigError)))
            raise


def _like_the_parent(build: Build) -> None:
    torch.set_num_threads(build.threads)
    torch.use_deterministic_algorithms(build.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision(build.matmul_precision)


def _receive_bells(stage: int, control: Connection) -> Bells:
    def receive() -> int:
        return recv_handle(control)

    others = (control.fileno(),)
    output_ready, output_grad_ready = Ringer(receive()), Listener(receive(), others)
    if stage == 0:
        return Bells(output_ready=output_ready, output_grad_ready=output_grad_ready)
    return Bells(
        input_ready=Listener(receive(), others),
        output_ready=output_ready,
        output_grad_ready=output_grad_ready,
        input_grad_ready=Ringer(receive()),
    )


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Serve the process that started this one."""
    # Ctrl-C and SIGTERM often reach a whole group; only the process in charge knows how to stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        return
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
