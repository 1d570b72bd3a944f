"""Messages: what the process in charge and the process of a stage say to each other.

    in charge                       stage
    Build, descriptors       ->
                             <-     Ready | Failed
    Slots, descriptor        ->
                             <-     Ready
    Step                     ->
                             <-     Done | Failed

Tensors never travel here: they lie in shared memory, and messages say where.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import nn

from stages.train.gpipe.cell import CellPlan
from stages.train.gpipe.chain import Block
from stages.train.gpipe.orders import Work
from stages.train.gpipe.shared import Place, Shared


@dataclass(frozen=True, slots=True)
class SharedTensor:
    """Where a parameter or buffer lies, and, for what is trained, its gradient."""

    value: Place
    is_parameter: bool
    grad: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What a process needs to become a stage."""

    plan: CellPlan
    works: tuple[Work, ...]
    blocks: bytes
    """Pickled by `pack_blocks`."""
    tensors: tuple[SharedTensor, ...]
    memory_bytes: int
    board_bytes: int
    board_offset: int
    """Where the stage notes, on the board that all see, what it does."""
    threads: int
    deterministic: bool
    matmul_precision: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Slots:
    """Where carries and their gradients lie, for each micro-batch."""

    num_bytes: int
    inputs: tuple[tuple[Place, ...], ...]
    input_grads: tuple[tuple[Place | None, ...], ...]
    outputs: tuple[tuple[Place, ...], ...]
    output_grads: tuple[tuple[Place | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Mode:
    """What of a stage learns at present; fine-tuning changes it between epochs."""

    learns: tuple[bool, ...]
    """`requires_grad` of each tensor of the build."""
    training: tuple[bool, ...]
    """`training` of each module of the blocks, in the order of `modules`."""


@dataclass(frozen=True, slots=True)
class Step:
    """Work one mini-batch off."""

    number: int
    mode: Mode | None
    """None: as before."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The stage waits for the next message."""


@dataclass(frozen=True, slots=True)
class Done:
    """All gradients are in their places, except those of parameters that were not used."""

    unused: tuple[int, ...]
    """Numbers among the build's tensors."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The stage cannot go on."""

    said: str
    """Type and message of the exception, or a message for the user if `is_config`."""
    traceback: str
    is_config: bool


_ELSEWHERE = -1
"""Stands for a tensor that belongs to another stage."""


class _Packer(pickle.Pickler):
    """Leaves out what lies in shared memory: those tensors become numbers."""

    def __init__(self, file: io.BytesIO, numbers: Mapping[int, int], others: Set[int]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._numbers, self._others = numbers, others

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, torch.Tensor):
            return None
        # Blocks may refer to the network that they are of, and so to all its tensors.
        return self._numbers.get(id(value), _ELSEWHERE if id(value) in self._others else None)


class _Unpacker(pickle.Unpickler):
    """Puts tensors of shared memory where numbers stand."""

    def __init__(self, data: bytes, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(io.BytesIO(data))
        self._tensors = tensors

    def persistent_load(self, number: int) -> torch.Tensor:
        return torch.empty(0) if number == _ELSEWHERE else self._tensors[number]


def pack_blocks(
    blocks: tuple[Block, ...], numbers: Mapping[int, int], others: Set[int] = frozenset()
) -> bytes:
    """Pickle blocks for a process of our own, without their tensors.

    Args:
        blocks: of one stage.
        numbers: of those of their tensors that lie in shared memory, by `id`.
        others: the `id` of tensors that only other stages use; they are left behind.
    """
    file = io.BytesIO()
    _Packer(file, numbers, others).dump(blocks)
    return file.getvalue()


def unpack_blocks(data: bytes, tensors: Sequence[torch.Tensor]) -> tuple[Block, ...]:
    """Return the blocks with tensors of this process."""
    blocks: tuple[Block, ...] = _Unpacker(data, tensors).load()
    return blocks


def open_tensors(records: Sequence[SharedTensor], memory: Shared) -> list[torch.Tensor]:
    """Return parameters and buffers over shared memory."""
    found: list[torch.Tensor] = []
    for record in records:
        value = memory.tensor(record.value)
        if record.is_parameter:
            value = nn.Parameter(value, requires_grad=record.grad is not None)
        found.append(value)
    return found
