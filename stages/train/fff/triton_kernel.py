"""Triton kernel: conditional matrix multiplication on GPUs, in Triton's language.

Two kernels: one walks the trees and writes what each visited neuron says and where it is, the other
adds up the rows that these neurons write with. A program of the first takes T tokens and one tree.
With T = 1 a token has a program of its own, which small batches need to fill a GPU. For large ones
tokens are first sorted by their way through the upper levels: the rows that neighbours in a tile
need are then mostly the same, and come from the caches.

Shapes: N tokens, I inputs, O outputs, T trees, L levels, n nodes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from stages.train.fff.packed import ACTIVATIONS, Layout, Unpacked

TILE = 16
"""Tokens of a program in the grouped form."""
LEAST_GROUPED = 512
"""Tokens from which they are sorted first."""
_TOP_LEVELS, _BLOCK = 4, 128


def walk(
    x: torch.Tensor, weights: Unpacked, b_out: torch.Tensor | None, layout: Layout
) -> torch.Tensor:
    """Return the outputs (N, O) of contiguous fp32 tokens x (N, I) on a GPU."""
    levels = layout.depth + 1
    hidden = x.new_empty((len(x), layout.trees, levels))
    place = torch.empty(hidden.shape, dtype=torch.int32, device=x.device)
    out = x.new_empty((len(x), layout.out_features))
    if not len(x):
        return out
    order, tile = torch.arange(len(x), device=x.device), 1
    if len(x) >= LEAST_GROUPED and layout.depth > 0:
        top = min(_TOP_LEVELS, layout.depth)
        _launch_route(x, weights, layout, order, hidden, place, tile=TILE, last=top)
        order, tile = place[:, 0, top - 1].argsort(), TILE
    _launch_route(x, weights, layout, order, hidden, place, tile=tile, last=levels)
    grid = (triton.cdiv(len(x), tile), triton.cdiv(layout.out_features, _BLOCK))
    _emit[grid](
        hidden, place, weights.w_out, b_out if b_out is not None else hidden, out, order, len(x),
        layout.out_features, layout.trees * levels, b_out is not None, tile, _BLOCK,
    )  # fmt: skip
    return out


def _launch_route(
    x: torch.Tensor,
    weights: Unpacked,
    layout: Layout,
    order: torch.Tensor,
    hidden: torch.Tensor,
    place: torch.Tensor,
    *,
    tile: int,
    last: int,
) -> None:
    grid = (triton.cdiv(len(x), tile), layout.trees)
    _route[grid](
        x, weights.w_in, weights.bias, order, hidden, place, len(x), layout.in_features,
        layout.nodes, layout.trees, layout.depth + 1, last, ACTIVATIONS.index(layout.activation),
        tile, _BLOCK,
    )  # fmt: skip


@triton.jit
def _activated(z: Any, kind: tl.constexpr) -> Any:
    if kind == 0:
        return 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    if kind == 1:
        inner = 0.7978845608028654 * (z + 0.044715 * z * z * z)
        return z * (1.0 - 1.0 / (tl.exp(2.0 * inner) + 1.0))
    if kind == 2:
        return tl.where(z < 0.0, 0.0, z)
    return z / (1.0 + tl.exp(-z))


@triton.jit
def _route(
    x: Any,
    w_in: Any,
    bias: Any,
    order: Any,
    hidden: Any,
    place: Any,
    tokens: Any,
    inputs: Any,
    nodes: Any,
    trees: Any,
    levels: Any,
    last: Any,
    kind: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
) -> None:
    slot = tl.program_id(0) * tile + tl.arange(0, tile)
    tree = tl.program_id(1)
    there = slot < tokens
    token = tl.load(order + slot, mask=there, other=0).to(tl.int64)
    node = tl.zeros([tile], dtype=tl.int64) + tree * nodes
    below = nodes
    for level in range(last):
        z = tl.load(bias + node)
        for start in range(0, inputs, block):
            column = start + tl.arange(0, block)
            inside = there[:, None] & (column < inputs)[None, :]
            values = tl.load(x + token[:, None] * inputs + column[None, :], mask=inside, other=0.0)
            rows = tl.load(w_in + node[:, None] * inputs + column[None, :], mask=inside, other=0.0)
            z += tl.sum(values * rows, axis=1)
        at = (token * trees + tree) * levels + level
        tl.store(hidden + at, _activated(z, kind), mask=there)
        tl.store(place + at, node.to(tl.int32), mask=there)
        below = (below - 1) // 2
        node += 1 + tl.where(z > 0.0, below, 0)


@triton.jit
def _emit(
    hidden: Any,
    place: Any,
    w_out: Any,
    b_out: Any,
    out: Any,
    order: Any,
    tokens: Any,
    outputs: Any,
    visited: Any,
    has_bias: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
) -> None:
    slot = tl.program_id(0) * tile + tl.arange(0, tile)
    column = tl.program_id(1) * block + tl.arange(0, block)
    there = slot < tokens
    token = tl.load(order + slot, mask=there, other=0).to(tl.int64)
    inside = there[:, None] & (column < outputs)[None, :]
    total = tl.zeros([tile, block], dtype=tl.float32)
    if has_bias:
        total += tl.load(b_out + column, mask=column < outputs, other=0.0)[None, :]
    for k in range(visited):
        node = tl.load(place + token * visited + k, mask=there, other=0).to(tl.int64)
        value = tl.load(hidden + token * visited + k, mask=there, other=0.0)
        rows = tl.load(w_out + node[:, None] * outputs + column[None, :], mask=inside, other=0.0)
        total += value[:, None] * rows
    tl.store(out + token[:, None] * outputs + column[None, :], total, mask=inside)
