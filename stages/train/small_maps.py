"""Small maps: convolutions over them as matrix products with patches, or as one wide map.

oneDNN's kernel for the weight gradient multiplies 32 neighbours of a row at a time. A map that is 7
or 4 pixels wide leaves most of that idle, and most of a small network's time goes there. Side by
side in one wide map, with columns of zeros between them, a batch's images have the same gradient:

    7 x 7, 96 channels: 92 -> 42 us an image     4 x 4, 256 channels: 512 -> 142 us

Where a whole batch has few pixels, a matrix product with its patches does better still, and where
it has very few, in all three passes. The weight gradient alone:

    8 images of 2 x 2, 512 channels: 10.8 -> 2.7 ms     16 of them: 18.6 -> 1.1 ms

(torch 2.14.1, one core of a Xeon with AMX). Convolutions here keep their map's size, but for their
stride: kernels are 2 gap + 1 wide.
"""

from __future__ import annotations

import torch
from torch import nn

ROW = 32
"""Neighbours that the kernel multiplies at a time."""


def images_in_a_row(batch: int, width: int, gap: int) -> int:
    """Return how many images fit side by side, such that the batch divides into whole rows."""
    fitting = range(max(1, ROW // (width + gap)), 0, -1)
    return next(count for count in fitting if batch % count == 0)


def of_patches(images: torch.Tensor, weight: torch.Tensor, gap: int, stride: int) -> torch.Tensor:
    """Return the convolution (N, out, H, W), channels last, as one matrix product."""
    patches = torch.stack(_shifted(_padded(images, gap), images, gap, stride), dim=3)
    product = patches.flatten(3) @ _matrix(weight).t()  # (N, H, W, out)
    return product.permute(0, 3, 1, 2)


def from_patches(
    gradient: torch.Tensor, images: torch.Tensor, gap: int, stride: int
) -> torch.Tensor:
    """Return the weight gradient (out, in, K, K), channels last, as one matrix product."""
    outputs, side = gradient.shape[1], 2 * gap + 1
    patches = torch.stack(_shifted(_padded(images, gap), images, gap, stride), dim=3)
    upstream = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
    product = upstream.t() @ patches.reshape(len(upstream), -1)  # (out, K * K * in)
    return product.view(outputs, side, side, -1).permute(0, 3, 1, 2)


def to_patches(
    gradient: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, gap: int, stride: int
) -> torch.Tensor:
    """Return the image gradient (N, in, H, W), channels last: a product, added up where it lies."""
    batch, channels, height, width = images.shape
    flat = gradient.permute(0, 2, 3, 1) @ _matrix(weight)  # (N, H, W, K * K * in)
    exact = torch.promote_types(images.dtype, torch.float32)
    total = images.new_zeros((batch, height + 2 * gap, width + 2 * gap, channels), dtype=exact)
    places = _shifted(total, images, gap, stride)
    for place, part in zip(places, flat.chunk(len(places), dim=3), strict=True):
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


def side_by_side(maps: torch.Tensor, count: int, gap: int) -> torch.Tensor:
    """Return (N / count, C, H, count * (W + gap)), channels last, with zeros in the gaps."""
    batch, channels, height, width = maps.shape
    rows = maps.new_empty(batch // count, height, count, width + gap, channels)
    rows[:, :, :, width:] = 0
    images = maps.permute(0, 2, 3, 1).reshape(batch // count, count, height, width, channels)
    rows[:, :, :, :width] = images.permute(0, 2, 1, 3, 4)
    return rows.flatten(2, 3).permute(0, 3, 1, 2)
