"""Pointwise: convolutions of one pixel as matrix products, in bf16 on CPUs with AMX.

With channels last, an image is a matrix of pixels by channels and a 1x1 kernel is another, so that
torch's matrix product does all three passes. oneDNN's convolution takes several times as long where
maps are small (torch 2.14.1, one core of a Xeon with AMX; ms):

                                       forward        weight gradient   image gradient
    8 x 2 x 2, 512 to 2048 channels    1.54 -> 0.27   5.01 -> 0.39      1.48 -> 0.44
    8 x 16 x 16, 64 to 256 channels    0.30 -> 0.13   0.56 -> 0.47      0.38 -> 0.12
"""

from __future__ import annotations

import torch
from torch import nn

from stages.train.amx import computes_in_amx


def multiply_pixels(module: nn.Module) -> list[str]:
    """Let 1x1 convolutions compute as matrix products where that is faster.

    Whether it is, is seen at each call: in training, in bf16, on a CPU with AMX.

    Args:
        module: changed in place; its state dict stays as it is.

    Returns:
        The names of the convolutions.
    """
    names = [name for name, layer in module.named_modules() if _is_suitable(layer)]
    for name in names:
        module.get_submodule(name).__class__ = PointwiseConv2d
    return names


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution of any stride."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        if not computes_in_amx(input):
            return super().forward(input)
        down, right = self.stride
        pixels = input[:, :, ::down, ::right].permute(0, 2, 3, 1)
        answer: torch.Tensor = nn.functional.linear(pixels, self.weight.flatten(1), self.bias)
        return answer.permute(0, 3, 1, 2)


def _is_suitable(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
    )
