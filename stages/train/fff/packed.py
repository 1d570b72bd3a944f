"""Packed: the weights of a fast feedforward layer as kernels read them, made once and not changed.

A record holds one neuron: a head of 64 bytes (bias and scales), the weights that it reads with and
those that it writes with. The records of a tree lie in preorder, so that a left child follows its
parent, and below a node of level l the right child is 2^(L - 1 - l) places further: a path needs no
table. Rows are padded to blocks of 32 columns and to 64 bytes. In rows of bf16, columns j and
16 + j of a block share four bytes: a kernel takes both with one load.

Shapes: I inputs, O outputs, T trees, L levels, n nodes.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pipeline.errors import ConfigError
from stages.train.fff.tree import nodes_of

Weights = Literal["fp32", "bf16", "int8"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
WEIGHTS: tuple[Weights, ...] = ("fp32", "bf16", "int8")
ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_tanh", "relu", "silu")
_ELEMENTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
HEAD, BLOCK, LINE, HUGE_PAGE = 64, 32, 64, 2 * 2**20
"""Bytes of a head, columns of a block, bytes of a cache line and of a huge page."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a record are."""

    in_features: int
    out_features: int
    depth: int
    trees: int
    weights: Weights = "fp32"
    activation: Activation = "gelu"

    @property
    def nodes(self) -> int:
        """n, of one tree."""
        return nodes_of(self.depth)

    @property
    def out_at(self) -> int:
        """The byte of a record at which the weights begin that the neuron writes with."""
        return HEAD + self.row_bytes(self.in_features)

    @property
    def record(self) -> int:
        """Bytes of a record."""
        return self.out_at + self.row_bytes(self.out_features)

    def row_bytes(self, columns: int) -> int:
        """Return how many bytes a row of so many columns takes."""
        return _up(_up(columns, BLOCK) * _ELEMENTS[self.weights].itemsize, LINE)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Weights in preorder and fp32, as kernels without a layout of their own take them."""

    w_in: torch.Tensor
    """(T n, I)."""
    w_out: torch.Tensor
    """(T n, O)."""
    bias: torch.Tensor
    """(T n,); zeros where the layer has none."""


def pack(
    layout: Layout, w_in: torch.Tensor, w_out: torch.Tensor, b_in: torch.Tensor | None
) -> torch.Tensor:
    """Return the records as bytes (T n, record), in huge pages where the system has them.

    Args:
        layout: what the layer is.
        w_in: (T n, I), the trees one after the other, each numbered as a heap.
        w_out: (T n, O).
        b_in: (T n,).
    """
    records = _huge_zeros(layout.trees * layout.nodes, layout.record)
    places = preorder(layout).repeat(layout.trees, 1)
    places += torch.arange(layout.trees).unsqueeze(1) * layout.nodes
    at = places.flatten()
    head = records[:, :HEAD].view(torch.float32)
    if b_in is not None:
        head[at, 0] = b_in.detach().float().cpu()
    for scale, begin, weights in ((1, HEAD, w_in), (2, layout.out_at, w_out)):
        rows, scales = _rows(layout, weights.detach().float().cpu())
        head[at, scale] = scales
        records[at, begin : begin + rows.shape[1]] = rows
    return records


def unpack(layout: Layout, records: torch.Tensor) -> Unpacked:
    """Return what `pack` was given, as far as the kind of weights keeps it, in preorder."""
    head = records[:, :HEAD].contiguous().view(torch.float32)
    return Unpacked(
        w_in=_columns(layout, records[:, HEAD:], layout.in_features, head[:, 1]),
        w_out=_columns(layout, records[:, layout.out_at :], layout.out_features, head[:, 2]),
        bias=head[:, 0].contiguous(),
    )


def preorder(layout: Layout) -> torch.Tensor:
    """Return the place (n,) in preorder of each node of a tree that is numbered as a heap."""
    place = torch.zeros(1, dtype=torch.int64)
    levels = [place]
    for level in range(layout.depth):
        below = nodes_of(layout.depth - level - 1)
        place = torch.stack([place + 1, place + 1 + below], dim=1).flatten()
        levels.append(place)
    return torch.cat(levels)


def activation_of(module: nn.Module) -> Activation:
    """Return the name of an activation that kernels know.

    Raises:
        ConfigError: it is another one.
    """
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    if knows_activation(module):
        return "relu" if isinstance(module, nn.ReLU) else "silu"
    raise ConfigError(
        f"stages.train.fff: kernels do not know the activation {type(module).__name__}. Use GELU, "
        "ReLU or SiLU, or keep the layer unpacked."
    )


def knows_activation(module: nn.Module) -> bool:
    """Tell whether kernels have this activation."""
    return isinstance(module, nn.GELU | nn.ReLU | nn.SiLU)


def _rows(layout: Layout, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows as bytes, and the scale of each."""
    columns = weights.shape[1]
    padded = nn.functional.pad(weights, (0, _up(columns, BLOCK) - columns))
    scales = torch.ones(len(weights))
    if layout.weights == "int8":
        scales = (padded.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        padded = (padded / scales.unsqueeze(1)).round().clamp(-127, 127)
    elements = padded.to(_ELEMENTS[layout.weights])
    if layout.weights == "bf16":
        pairs = elements.view(len(elements), -1, 2, BLOCK // 2).transpose(2, 3)
        elements = pairs.reshape(len(elements), -1)
    return elements.view(torch.uint8), scales


def _columns(
    layout: Layout, rows: torch.Tensor, columns: int, scales: torch.Tensor
) -> torch.Tensor:
    element = _ELEMENTS[layout.weights]
    width = _up(columns, BLOCK)
    elements = rows[:, : width * element.itemsize].contiguous().view(element)
    if layout.weights == "bf16":
        pairs = elements.view(len(elements), -1, BLOCK // 2, 2).transpose(2, 3)
        elements = pairs.reshape(len(elements), -1)
    values = elements[:, :columns].float()
    return values * scales.unsqueeze(1) if layout.weights == "int8" else values.contiguous()


def _huge_zeros(rows: int, columns: int) -> torch.Tensor:
    """Return zero bytes that begin at a huge page, so that few page tables are walked."""
    size = rows * columns
    # Memory that is shared, as it is by default, has small pages only.
    area = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            area.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(area, dtype=torch.uint8)
    begin = -whole.data_ptr() % HUGE_PAGE
    return whole[begin : begin + size].view(rows, columns)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
