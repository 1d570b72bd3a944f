"""Pointwise: convolutions that see each pixel once as matrix products, in bf16 on CPUs with units.

With channels last, an image is a matrix of pixels by channels and a 1x1 kernel is another, so that
torch's matrix product does all three passes; so it is with the patches of a vision transformer.
oneDNN's convolution takes several times as long where maps are small (torch 2.14.1, one core of a
Xeon with AMX; ms):

                                       forward        weight gradient   image gradient
    8 x 2 x 2, 512 to 2048 channels    1.54 -> 0.27   5.01 -> 0.39      1.48 -> 0.44
    8 x 16 x 16, 64 to 256 channels    0.30 -> 0.13   0.56 -> 0.47      0.38 -> 0.12
    16 x 64 x 64, patches of 16 x 16   3.37 -> 1.32   20.1 -> 2.4       not needed

On a Zen 4, without AMX, the three take 1.10 -> 0.43, 1.51 -> 0.41 and 1.40 -> 0.37 ms (first row),
0.34 -> 0.33, 0.46 -> 0.44 and 0.37 -> 0.34 (second), 1.64 -> 0.74 and 2.22 -> 0.74 (third).
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn

from stages.train.bf16_units import computes_in_bf16
from stages.train.exchange import exchange

LEAST_PATCH = 8
"""Pixels of a patch's side; smaller ones cost more to copy than the product gains."""


def multiply_pixels(module: nn.Module) -> list[str]:
    """Let 1x1 convolutions and those of patches compute as matrix products where that is faster.

    Whether it is, is seen at each call: in training, in bf16, on an x86 CPU with bf16 units.

    Args:
        module: changed in place; its state dict stays as it is.

    Returns:
        The names of the convolutions.
    """
    patches = exchange(module, _takes_patches, PatchConv2d)
    return [*exchange(module, _takes_pixels, PointwiseConv2d), *patches]


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution of any stride."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        if not computes_in_bf16(input):
            return super().forward(input)
        down, right = self.stride
        pixels = input[:, :, ::down, ::right].permute(0, 2, 3, 1)
        answer: torch.Tensor = nn.functional.linear(pixels, self.weight.flatten(1), self.bias)
        return answer.permute(0, 3, 1, 2)


class PatchConv2d(nn.Conv2d):
    """A convolution whose kernel moves by its own size: no two patches share a pixel."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (N, in, H, W) to (N, out, H / kernel, W / kernel)."""
        high, wide = self.kernel_size
        if input.shape[2] % high or input.shape[3] % wide or not computes_in_bf16(input):
            return super().forward(input)
        batch, channels, height, width = input.shape
        pixels = input.permute(0, 2, 3, 1)
        pixels = pixels.reshape(batch, height // high, high, width // wide, wide, channels)
        patches = pixels.transpose(2, 3).flatten(3)  # (N, H / kernel, W / kernel, high * wide * in)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        answer: torch.Tensor = nn.functional.linear(patches, weight, self.bias)
        return answer.permute(0, 3, 1, 2)


def _takes_pixels(layer: nn.Module) -> bool:
    return _is_dense(layer) and layer.kernel_size == (1, 1)


def _takes_patches(layer: nn.Module) -> bool:
    return (
        _is_dense(layer) and layer.kernel_size == layer.stride and min(layer.stride) >= LEAST_PATCH
    )


def _is_dense(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(layer) is nn.Conv2d
        and layer.padding == (0, 0)
        and layer.dilation == (1, 1)
        and layer.groups == 1
    )
