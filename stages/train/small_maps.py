"""Small maps: convolutions over them in faster forms, in bf16 on x86 CPUs with units for it.

oneDNN's kernel for the weight gradient multiplies 32 neighbours of a row at a time. A map that is 7
or 4 pixels wide leaves most of that idle, and most of a small network's time goes there. Side by
side in one wide map, with columns of zeros between them, a batch's images have the same gradient:

    7 x 7, 96 channels: 92 -> 42 us an image     4 x 4, 256 channels: 512 -> 142 us

Where a whole batch has few pixels, a matrix product with its patches does better still, and where
it has very few, in all three passes. The weight gradient alone:

    8 images of 2 x 2, 512 channels: 10.8 -> 2.7 ms     16 of them: 18.6 -> 1.1 ms

(torch 2.14.1, one core of a Xeon with AMX). On a Zen 4, without AMX, wide rows gain only where a
map is 3 pixels wide or less (64 images of 3 x 3, 128 channels: 1.31 -> 1.05 ms); patches:

    8 images of 2 x 2, 512 channels: 5.8 -> 1.1 ms      4 of 7 x 7: 9.1 -> 5.8 ms
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stages.train.bf16_units import computes_in_bf16, has_amx
from stages.train.exchange import exchange

ROW = 32
"""Neighbours that the kernel multiplies at a time."""
LEAST_IMAGES, LEAST_WITHOUT_AMX = 3, 8
"""In a row; with fewer, the copies cost what the kernel gains."""
FEW_PIXELS = 2
"""Pixels of a batch, for each channel, up to which the weight gradient is worth its patches."""
FEWEST_PIXELS = 0.25
"""And up to which all three passes are."""
LEAST_CHANNELS, LEAST_WITHOUT_AMX_IN_ALL = 128, 512
"""For the first; without AMX, for the second."""


def quicken_small_maps(module: nn.Module) -> list[str]:
    """Let convolutions that may gain by it compute their weight gradient in another way.

    Whether they do is seen at each call: in training, in bf16, on an x86 CPU with bf16 units, on
    small maps.

    Args:
        module: changed in place; its state dict stays as it is.

    Returns:
        The names of the convolutions.
    """
    return exchange(module, _is_suitable, SmallMapConv2d)


def images_in_a_row(batch: int, width: int, gap: int) -> int:
    """Return how many images fit side by side, such that the batch divides into whole rows."""
    fitting = range(max(1, ROW // (width + gap)), 0, -1)
    return next(count for count in fitting if batch % count == 0)


class SmallMapConv2d(nn.Conv2d):
    """A 2-D convolution that keeps the size of its input, but for its stride."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        gap, stride = int(self.padding[1]), int(self.stride[1])
        count, product = _way(input, gap, stride)
        if count == 1 or not (self.weight.requires_grad and computes_in_bf16(input)):
            return super().forward(input)
        low = torch.bfloat16
        answer: torch.Tensor = _Convolution.apply(
            input.to(low), self.weight.to(low), gap, stride, count, product
        )
        return answer


def _way(images: torch.Tensor, gap: int, stride: int) -> tuple[int, bool]:
    """Return `count` and `product` of `_Convolution`, as gains most; 1: it gains nothing."""
    batch, channels, height, width = images.shape
    amx, pixels = has_amx(), batch * height * width // stride**2
    if channels >= LEAST_CHANNELS and pixels <= FEW_PIXELS * channels:
        enough = amx or channels >= LEAST_WITHOUT_AMX_IN_ALL
        return 0, enough and pixels <= FEWEST_PIXELS * channels
    count = images_in_a_row(batch, width, gap) if stride == 1 else 1
    return (count if count >= (LEAST_IMAGES if amx else LEAST_WITHOUT_AMX) else 1), False


class _Convolution(torch.autograd.Function):
    """Convolve as ever, but for the weight gradient, or for all passes.

    `count` is how many images make a row; 0: patches. `product`: patches in all three passes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        gap: int,
        stride: int,
        count: int,
        product: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.gap, ctx.stride, ctx.count, ctx.product = gap, stride, count, product
        if product:
            return _of_patches(images, weight, gap, stride)
        return nn.functional.conv2d(images, weight, stride=stride, padding=gap)

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None, None, None]:
        images, weight = ctx.saved_tensors
        gap, stride, count = ctx.gap, ctx.stride, ctx.count
        (gradient,) = gradients
        of_images = of_weight = None
        if ctx.needs_input_grad[0] and not ctx.product:
            of_images = _backward(gradient, images, weight, gap, stride)[0]
        elif ctx.needs_input_grad[0]:
            of_images = _to_patches(gradient, images, weight, gap, stride)
        if ctx.needs_input_grad[1] and count:
            wide_gradient = _side_by_side(gradient, count, gap)
            wide_images = _side_by_side(images, count, gap)
            of_weight = _backward(wide_gradient, wide_images, weight, gap, 1, of_weight=True)[1]
        elif ctx.needs_input_grad[1]:
            of_weight = _from_patches(gradient, images, gap, stride)
        return of_images, of_weight, None, None, None, None


def _backward(
    gradient: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    gap: int,
    stride: int,
    *,
    of_weight: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    answer: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    answer = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [stride, stride], [gap, gap], [1, 1], False, [0, 0], 1,
        [not of_weight, of_weight, False],
    )  # fmt: skip
    return answer


def _of_patches(images: torch.Tensor, weight: torch.Tensor, gap: int, stride: int) -> torch.Tensor:
    """Return the convolution (N, out, H, W), channels last, as one matrix product."""
    patches = torch.stack(_shifted(_padded(images, gap), images, gap, stride), dim=3)
    product = patches.flatten(3) @ _matrix(weight).t()  # (N, H, W, out)
    return product.permute(0, 3, 1, 2)


def _from_patches(
    gradient: torch.Tensor, images: torch.Tensor, gap: int, stride: int
) -> torch.Tensor:
    """Return the weight gradient (out, in, K, K), channels last, as one matrix product."""
    outputs, side = gradient.shape[1], 2 * gap + 1
    patches = torch.stack(_shifted(_padded(images, gap), images, gap, stride), dim=3)
    upstream = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
    product = upstream.t() @ patches.reshape(len(upstream), -1)  # (out, K * K * in)
    return product.view(outputs, side, side, -1).permute(0, 3, 1, 2)


def _to_patches(
    gradient: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, gap: int, stride: int
) -> torch.Tensor:
    """Return the image gradient (N, in, H, W), channels last: a product, added up where it lies."""
    batch, channels, height, width = images.shape
    of_patches = gradient.permute(0, 2, 3, 1) @ _matrix(weight)  # (N, H, W, K * K * in)
    exact = torch.promote_types(images.dtype, torch.float32)
    total = images.new_zeros((batch, height + 2 * gap, width + 2 * gap, channels), dtype=exact)
    places = _shifted(total, images, gap, stride)
    for place, part in zip(places, of_patches.chunk(len(places), dim=3), strict=True):
        place += part
    inner = total[:, gap : gap + height, gap : gap + width]
    return inner.to(images.dtype).permute(0, 3, 1, 2)


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight.permute(0, 2, 3, 1).flatten(1)  # (out, K * K * in)


def _padded(images: torch.Tensor, gap: int) -> torch.Tensor:
    return nn.functional.pad(images.permute(0, 2, 3, 1), (0, 0, gap, gap, gap, gap))


def _shifted(
    padded: torch.Tensor, images: torch.Tensor, gap: int, stride: int
) -> list[torch.Tensor]:
    """Return what each of the K * K places of a kernel sees of padded images (N, H, W, C)."""
    side = 2 * gap + 1
    height, width = images.shape[2:]
    return [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(side)
        for j in range(side)
    ]


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
    plain = layer.dilation == (1, 1) and layer.groups == 1 and layer.stride in ((1, 1), (2, 2))
    zeros = layer.bias is None and layer.padding_mode == "zeros"
    return keeps_size and is_square and plain and zeros
