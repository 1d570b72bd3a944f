"""Convolutions that keep their map's size, trained in bf16 on x86 CPUs with units for it.

torch computes the forward pass and the image gradient at nearly what the units give, but not the
weight gradient, for which there are three other ways: a kernel of our own, wide rows of images, and
patches (`small_maps.py`). Which is fastest depends on the processor and the maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from stages.train.bf16_units import computes_in_bf16, has_amx
from stages.train.exchange import exchange
from stages.train.maps.weight_gradient import has_kernel_for, weight_gradient
from stages.train.small_maps import (
    from_patches,
    images_in_a_row,
    of_patches,
    side_by_side,
    to_patches,
)

LEAST_IMAGES = 3
"""In a row; with fewer, the copies cost what the kernel gains."""
FEW_PIXELS = 2
"""Pixels of a batch, for each channel, up to which the weight gradient is worth its patches."""
FEWEST_PIXELS = 0.25
"""And up to which all three passes are."""
LEAST_CHANNELS, LEAST_WITHOUT_AMX = 128, 512
"""For the first; without AMX, for the second."""


def quicken_convolutions(module: nn.Module) -> list[str]:
    """Let convolutions that may gain by it compute their weight gradient in another way.

    Whether they do is seen at each call: in training, in bf16, on an x86 CPU with bf16 units.

    Args:
        module: changed in place; its state dict stays as it is.

    Returns:
        The names of the convolutions.
    """
    return exchange(module, _is_suitable, QuickConv2d)


class QuickConv2d(nn.Conv2d):
    """A 2-D convolution that keeps the size of its input, but for its stride."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        if not (self.weight.requires_grad and computes_in_bf16(input)):
            return super().forward(input)
        images = input.to(torch.bfloat16)
        gap, stride = int(self.padding[1]), int(self.stride[1])
        way = way_of(images, self.weight, stride)
        if way.by is By.TORCH:
            return super().forward(images)
        weight = self.weight.to(torch.bfloat16)
        answer: torch.Tensor = _Convolution.apply(images, weight, gap, stride, way)
        return answer


class By(Enum):
    """What computes the weight gradient."""

    TORCH = auto()
    KERNEL = auto()
    ROWS = auto()
    PATCHES = auto()


@dataclass(frozen=True)
class Way:
    """How a convolution is computed: its weight gradient, and the other two passes."""

    by: By
    product: bool = False
    """With patches, in both of them."""


def way_of(images: torch.Tensor, weight: torch.Tensor, stride: int) -> Way:
    """Return the fastest way for images (N, in, H, W) and a weight (out, in, K, K)."""
    batch, channels, height, width = images.shape
    amx, pixels = has_amx(), batch * height * width // stride**2
    few = channels >= LEAST_CHANNELS and pixels <= FEW_PIXELS * channels
    enough = amx or channels >= LEAST_WITHOUT_AMX
    product = few and enough and pixels <= FEWEST_PIXELS * channels
    if not amx and has_kernel_for(images, weight):
        return Way(By.KERNEL, product)
    if few or (width == 1 and stride > 1):  # of such a column, oneDNN's gradient is wrong
        return Way(By.PATCHES, product)
    row = images_in_a_row(batch, width, weight.shape[-1] // 2) if amx and stride == 1 else 1
    return Way(By.ROWS if row >= LEAST_IMAGES else By.TORCH)


class _Convolution(torch.autograd.Function):
    """Convolve as ever, but in the way given."""

    @staticmethod
    def forward(
        ctx: Any, images: torch.Tensor, weight: torch.Tensor, gap: int, stride: int, way: Way
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.gap, ctx.stride, ctx.way = gap, stride, way
        if way.product:
            return of_patches(images, weight, gap, stride)
        return nn.functional.conv2d(images, weight, stride=stride, padding=gap)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None, None]:
        images, weight = ctx.saved_tensors
        gap, stride, way = ctx.gap, ctx.stride, ctx.way
        of_images = of_weight = None
        if ctx.needs_input_grad[0] and way.product:
            of_images = to_patches(gradients[0], images, weight, gap, stride)
        elif ctx.needs_input_grad[0]:
            of_images = _backward(gradients[0], images, weight, gap, stride)[0]
        if ctx.needs_input_grad[1]:
            of_weight = _of_weight(gradients[0], images, weight, gap, stride, way.by)
        return of_images, of_weight, None, None, None


def _of_weight(
    gradient: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    gap: int,
    stride: int,
    by: By,
) -> torch.Tensor:
    if by is By.KERNEL:
        return weight_gradient(gradient, images, stride)
    if by is By.PATCHES:
        return from_patches(gradient, images, gap, stride)
    if by is By.ROWS:
        row = images_in_a_row(len(images), images.shape[3], gap)
        gradient, images = (side_by_side(maps, row, gap) for maps in (gradient, images))
    return _backward(gradient, images, weight, gap, stride, of_weight=True)[1]


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
