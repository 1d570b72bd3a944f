"""Numba kernel: one token after the other, compiled when first called, where no compiler was."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from stages.train.fff.packed import ACTIVATIONS, Layout, Unpacked


def walk(
    x: torch.Tensor, weights: Unpacked, b_out: torch.Tensor | None, layout: Layout
) -> torch.Tensor:
    """Return the outputs (N, O) of contiguous fp32 tokens x (N, I)."""
    out = x.new_zeros((len(x), layout.out_features))
    if b_out is not None:
        out += b_out
    arrays = (x, weights.w_in, weights.w_out, weights.bias, out)
    kind = ACTIVATIONS.index(layout.activation)
    _walk(*(array.numpy() for array in arrays), layout.depth + 1, layout.trees, kind)
    return out


def _activate(z: np.float32, kind: int) -> np.float32:
    if kind == 0:
        return np.float32(0.5 * z * (1 + math.erf(z * math.sqrt(0.5))))
    if kind == 1:
        inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
        return np.float32(0.5 * z * (1 + math.tanh(inner)))
    if kind == 2:
        return np.float32(0) if z < 0 else z
    return np.float32(z / (1 + math.exp(-z)))


def _visit(
    x: NDArray[np.float32],
    w_in: NDArray[np.float32],
    w_out: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: NDArray[np.float32],
    levels: int,
    trees: int,
    kind: int,
) -> None:
    nodes = 2**levels - 1
    for token in range(x.shape[0]):
        for tree in range(trees):
            node = tree * nodes
            below = nodes
            for _ in range(levels):
                z = np.float32(0)
                for i in range(x.shape[1]):
                    z += x[token, i] * w_in[node, i]
                z += bias[node]
                hidden = _activated(z, kind)
                for o in range(out.shape[1]):
                    out[token, o] += hidden * w_out[node, o]
                below = (below - 1) // 2
                node += 1 + (below if z > 0 else 0)


_activated: Any = numba.njit(_activate)
_walk: Any = numba.njit(fastmath={"reassoc", "contract"}, nogil=True)(_visit)
