"""Small layers for the tests of this folder, and what they have to answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.train.fff import cmm
from stages.train.fff.inference import PackedFFF
from stages.train.fff.layer import FFF
from stages.train.fff.packed import unpack
from stages.train.fff.tree import nodes_of

BACKENDS = cmm.backends()
NATIVE = [name for name in BACKENDS if name.startswith("native")]

needs_native = pytest.mark.skipif(not NATIVE, reason="installed without a C++ compiler")


def layer_of(
    inputs: int = 37,
    outputs: int = 70,
    depth: int = 4,
    trees: int = 2,
    *,
    activation: nn.Module | None = None,
    bias: bool = True,
    seed: int = 0,
) -> FFF:
    torch.manual_seed(seed)
    return FFF(inputs, outputs, depth, trees, activation, bias=bias).eval()


def tokens_of(layer: FFF, num: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(num, layer.in_features, generator=torch.Generator().manual_seed(seed))


def reference(packed: PackedFFF, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs in float64 and paths (N, T, L) in preorder, with weights as packing rounds them."""
    layout, weights = packed.layout, unpack(packed.layout, packed.records)
    x = (x.bfloat16() if layout.weights == "bf16" else x).double()
    act = {
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU("tanh"),
        "relu": nn.ReLU(),
        "silu": nn.SiLU(),
    }[layout.activation]
    out = torch.zeros(len(x), layout.out_features, dtype=torch.float64)
    node = (torch.arange(layout.trees) * layout.nodes).expand(len(x), -1)
    path = []
    for level in range(layout.depth + 1):
        z = (weights.w_in[node].double() * x.unsqueeze(1)).sum(-1) + weights.bias[node]
        out += (act(z).unsqueeze(-1) * weights.w_out[node].double()).sum(1)
        path.append(node)
        node = node + 1 + (z > 0) * nodes_of(layout.depth - level - 1)
    if packed.b_out is not None:
        out += packed.b_out
    return out, torch.stack(path, dim=-1)


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6 * scale)
