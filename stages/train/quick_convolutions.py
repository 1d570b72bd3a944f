"""Quick convolutions: a network's convolutions in the forms that suit the CPU they train on."""

from __future__ import annotations

from torch import nn

from stages.train.pointwise import multiply_pixels
from stages.train.small_maps import quicken_small_maps


def quicken(module: nn.Module) -> None:
    """Let convolutions choose their kernels at each call; in place, the state dict stays."""
    quicken_small_maps(module)
    multiply_pixels(module)
