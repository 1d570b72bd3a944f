"""Wide rows: a faster weight gradient for convolutions over small maps, in bf16 on CPUs with AMX.

oneDNN's kernel for this gradient multiplies 32 neighbours of a row at a time. A map that is 7 or 4
pixels wide leaves most of that idle, and most of a small network's time goes there. Side by side in
one wide map, with columns of zeros between them, the images of a batch have the same gradient:

    7 x 7, 96 channels: 92 -> 42 us an image     4 x 4, 256 channels: 512 -> 142 us

(torch 2.14.1, one core of a Xeon with AMX). The forward pass and the gradient of the input gain
nothing by it and stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ROW = 32
"""Neighbours that the kernel multiplies at a time."""
LEAST_IMAGES = 3
"""In a row; with two, the copies cost what the kernel gains."""


def widen_rows(module: nn.Module) -> list[str]:
    """Let convolutions that may gain by it compute their weight gradient in wide rows.

    Whether they do is seen at each call: in training, in bf16, on a CPU with AMX, on small maps.

    Args:
        module: changed in place; its state dict stays as it is.

    Returns:
        The names of the convolutions.
    """
    names = [name for name, layer in module.named_modules() if _is_suitable(layer)]
    for name in names:
        module.get_submodule(name).__class__ = WideRowConv2d
    return names


def images_in_a_row(batch: int, width: int, gap: int) -> int:
    """Return how many images fit side by side, such that the batch divides into whole rows."""
    fitting = range(max(1, ROW // (width + gap)), 0, -1)
    return next(count for count in fitting if batch % count == 0)


class WideRowConv2d(nn.Conv2d):
    """A 2-D convolution of stride 1 that keeps the size of its input."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (N, in, H, W) to (N, out, H, W)."""
        gap = int(self.padding[1])
        count = images_in_a_row(len(input), input.shape[3], gap)
        if count < LEAST_IMAGES or not (self.weight.requires_grad and _computes_in_amx(input)):
            return super().forward(input)
        low = torch.bfloat16
        answer: torch.Tensor = _Convolution.apply(input.to(low), self.weight.to(low), gap, count)
        return answer


class _Convolution(torch.autograd.Function):
    """Convolve as ever; for the weight gradient, lay the images side by side."""

    @staticmethod
    def forward(
        ctx: Any, images: torch.Tensor, weight: torch.Tensor, gap: int, count: int
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.gap, ctx.count = gap, count
        return nn.functional.conv2d(images, weight, padding=gap)

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        gap, count = ctx.gap, ctx.count
        (gradient,) = gradients
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = _backward(gradient, images, weight, gap)[0]
        if ctx.needs_input_grad[1]:
            wide_gradient = _side_by_side(gradient, count, gap)
            wide_images = _side_by_side(images, count, gap)
            of_weight = _backward(wide_gradient, wide_images, weight, gap, of_weight=True)[1]
        return of_images, of_weight, None, None


def _backward(
    gradient: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    gap: int,
    *,
    of_weight: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    answer: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    answer = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [1, 1], [gap, gap], [1, 1], False, [0, 0], 1,
        [not of_weight, of_weight, False],
    )  # fmt: skip
    return answer


def _side_by_side(maps: torch.Tensor, count: int, gap: int) -> torch.Tensor:
    """Return (N / count, C, H, count * (W + gap)), channels last, with zeros in the gaps."""
    batch, channels, height, width = maps.shape
    rows = maps.new_empty(batch // count, height, count, width + gap, channels)
    rows[:, :, :, width:] = 0
    images = maps.permute(0, 2, 3, 1).reshape(batch // count, count, height, width, channels)
    rows[:, :, :, :width] = images.permute(0, 2, 1, 3, 4)
    return rows.flatten(2, 3).permute(0, 3, 1, 2)


def _is_suitable(layer: nn.Module) -> bool:
    if type(layer) is not nn.Conv2d or isinstance(layer.padding, str):
        return False
    keeps_size = all(
        size == 2 * padding + 1
        for size, padding in zip(layer.kernel_size, layer.padding, strict=True)
    )
    is_square = layer.padding[0] == layer.padding[1] > 0
    plain = layer.stride == layer.dilation == (1, 1) and layer.groups == 1
    zeros = layer.bias is None and layer.padding_mode == "zeros"
    return keeps_size and is_square and plain and zeros


def _computes_in_amx(images: torch.Tensor) -> bool:
    return (
        images.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.cpu._is_amx_tile_supported()
    )
