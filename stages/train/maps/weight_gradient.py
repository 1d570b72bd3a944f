"""The weight gradient of a 3x3 convolution in bf16, by dot products over pairs of images.

Values of two images at the same pixel make a pair, so that a neighbour is a step in memory for any
stride, no width has to divide, and nothing beyond an edge is computed. torch and ours (2.14.1, one
core of a Zen 4, whose units give at most 240 GFLOP/s):

    64 x 28 x 28, 32 to 32 channels     5.8 -> 4.4 ms, 210 GFLOP/s
    64 x 14 x 14, 64 to 64              5.6 -> 3.9     237
    64 x 7 x 7, 64 to 128               3.6 -> 1.8     268 without what is beyond the edges
    8 x 56 x 56, 64 to 64               9.6 -> 8.7     213
    8 x 14 x 14, 256 to 512, stride 2   7.6 -> 4.2     220
    8 x 2 x 2, 512 to 512               3.6 -> 0.4     350
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stages.train.maps.kernels import kernels_for

if TYPE_CHECKING:
    from stages.train.maps import _kernels


def has_kernel_for(images: torch.Tensor, weight: torch.Tensor) -> bool:
    """Tell whether `weight_gradient` takes these: (N, in, H, W), and (out, in, K, K)."""
    outputs, inputs, *size = weight.shape
    products = _products_for(images)
    return (
        products is not None
        and products.takes(inputs, outputs)
        and size == [3, 3]
        and images.shape[1] == inputs
        and len(images) > 1  # a single one makes half a pair
        and images.numel() > 0
    )


def weight_gradient(gradient: torch.Tensor, images: torch.Tensor, stride: int) -> torch.Tensor:
    """Return the weight gradient (out, in, 3, 3) of a convolution with padding 1, channels last.

    Sums are taken in fp32 and in one order: the same bits with any number of threads.

    Args:
        gradient: of what the convolution gave, (N, out, H / stride, W / stride), bf16.
        images: what it was given, (N, in, H, W), bf16; see `has_kernel_for`.
        stride: 1 or 2, in both directions.
    """
    products = _products_for(images)
    assert products is not None
    num, inputs, height, width = images.shape
    outputs = gradient.shape[1]
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    of_weight = images.new_empty(outputs, 3, 3, inputs)
    products.weight_gradient(
        images.data_ptr(), gradient.data_ptr(),
        _convolved(num, height, width, inputs, outputs, stride), torch.get_num_threads(),
        of_weight.data_ptr(),
    )  # fmt: skip
    return of_weight.permute(0, 3, 1, 2)


def _products_for(images: torch.Tensor) -> _kernels.Products | None:
    kernels = kernels_for(images)
    return None if kernels is None else kernels.products


def _convolved(*sizes: int) -> _kernels.Convolved:
    from stages.train.maps._kernels import Convolved

    return Convolved(*sizes)
