"""Gathered: conditional matrix multiplication with torch's own operators, on any device."""

from __future__ import annotations

import torch
from torch.nn import functional

from stages.train.fff.packed import Layout, Unpacked
from stages.train.fff.tree import nodes_of

_ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


def gathered(
    x: torch.Tensor, weights: Unpacked, b_out: torch.Tensor | None, layout: Layout
) -> torch.Tensor:
    """Return the outputs (N, O) of tokens x (N, I), rows gathered level by level.

    Args:
        x: of the weights' kind.
        weights: in preorder.
        b_out: (O,).
        layout: of the trees.
    """
    root = torch.arange(layout.trees, device=x.device) * layout.nodes
    node = root.expand(len(x), -1)
    out = x.new_zeros((len(x), layout.out_features))
    for level in range(layout.depth + 1):
        logit = torch.einsum("ni,nti->nt", x, weights.w_in[node]) + weights.bias[node]
        hidden = _ACTIVATIONS[layout.activation](logit)
        out += torch.einsum("nt,nto->no", hidden, weights.w_out[node])
        below = nodes_of(layout.depth - level - 1)
        node = node + 1 + (logit > 0).to(torch.int64) * below
    return out if b_out is None else out + b_out
