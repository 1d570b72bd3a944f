"""Batch norm in training on a CPU, in two passes over memory each way, with the ReLU behind it.

torch's takes more of them, and its backward pass over bf16 is the slowest part of a small network
that is no convolution. Forward and backward of both together (torch 2.14.1, one core of a Zen 4):

                                bf16                 fp32
    64 x 28 x 28 x 32           2.65 -> 1.00 ms      2.99 -> 1.07 ms
    64 x 14 x 14 x 64           1.18 -> 0.47         1.10 -> 0.45
    32 x 56 x 56 x 256          39.5 -> 22.6         57.1 -> 36.5

Means and variances are taken in two steps and put together in float64, so they are nearer to the
exact ones than torch's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.autograd.function import once_differentiable

from stages.train.exchange import exchange
from stages.train.maps.kernels import kernels_for

if TYPE_CHECKING:
    from stages.train.maps.kernels import Kernels


def quicken_norms(module: nn.Module) -> list[str]:
    """Let batch norms compute in kernels of our own; where they stand before a ReLU, with it.

    Whether they do is seen at each call: in training, on a CPU, channels last.

    Args:
        module: changed in place; its state dict stays as it is.

    Returns:
        The names of the batch norms.
    """
    names = exchange(module, lambda layer: type(layer) is nn.BatchNorm2d, QuickBatchNorm2d)
    names += exchange(module, lambda layer: type(layer) is BatchNormAct2d, QuickBatchNormAct2d)
    exchange(module, _has_norm_and_relu, NormedSequential)
    return names


class QuickBatchNorm2d(nn.BatchNorm2d):
    """A batch norm; with `relu`, of what is positive."""

    def forward(self, input: torch.Tensor, relu: bool = False) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        kernels = _kernels_for(self, input)
        if kernels is not None:
            return _normalize(self, input, kernels, relu)
        normalized = super().forward(input)
        return nn.functional.relu(normalized, inplace=True) if relu else normalized


class QuickBatchNormAct2d(BatchNormAct2d):
    """timm's batch norm with an activation behind it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        kernels = _kernels_for(self, x)
        if kernels is None:
            answer: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return answer
        if type(self.act) is nn.ReLU and type(self.drop) is nn.Identity:
            return _normalize(self, x, kernels, relu=True)
        activated: torch.Tensor = self.act(self.drop(_normalize(self, x, kernels, relu=False)))
        return activated


class NormedSequential(nn.Sequential):
    """A Sequential in which batch norms compute the ReLU that follows, which is then left out."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Run the layers one after the other."""
        layers = iter([*pairwise(self), (self[-1], None)])
        for layer, following in layers:
            if _is_norm_with_relu(layer, following):
                input = layer(input, relu=True)
                next(layers)
            else:
                input = layer(input)
        return input


def _has_norm_and_relu(module: nn.Module) -> bool:
    if type(module) is not nn.Sequential:
        return False
    return any(_is_norm_with_relu(norm, relu) for norm, relu in pairwise(module))


def _is_norm_with_relu(norm: nn.Module, relu: nn.Module | None) -> bool:
    """Tell whether both can be one; who hooked one of them wants to see what it takes or gives."""
    return (
        type(norm) is QuickBatchNorm2d
        and type(relu) is nn.ReLU
        and not norm._forward_hooks
        and not any((relu._forward_hooks, relu._forward_pre_hooks))
        and not any((layer._backward_hooks or layer._backward_pre_hooks) for layer in (norm, relu))
    )


def _kernels_for(norm: nn.BatchNorm2d, maps: torch.Tensor) -> Kernels | None:
    kernels = kernels_for(maps) if norm.training else None
    if kernels is None or maps.shape[1] != norm.num_features:
        return None
    pixels = maps.numel() // max(1, norm.num_features)
    kept = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    plain = all(each is None or _is_row(each) for each in kept)
    return kernels if plain and pixels > 1 and _divides(pixels, norm.num_features) else None


def _is_row(values: torch.Tensor) -> bool:
    return values.dtype == torch.float32 and values.is_contiguous() and values.device.type == "cpu"


def _divides(pixels: int, channels: int) -> bool:
    from stages.train.maps import _kernels

    return _kernels.pixels_in_a_row(pixels, channels) > 0


def _normalize(
    norm: nn.BatchNorm2d, maps: torch.Tensor, kernels: Kernels, relu: bool
) -> torch.Tensor:
    """Normalize by the batch's own statistics, and move the running ones, as torch's layer does."""
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    running = (norm.running_mean, norm.running_var) if norm.track_running_stats else (None, None)
    answer: torch.Tensor = _BatchNorm.apply(
        maps, norm.weight, norm.bias, kernels, running, momentum, norm.eps, relu
    )
    return answer


class _BatchNorm(torch.autograd.Function):
    """Batch norm over N, H and W; what a ReLU gave 0 for is found again from `x`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        kernels: Kernels,
        running: tuple[torch.Tensor | None, torch.Tensor | None],
        momentum: float,
        eps: float,
        relu: bool,
    ) -> torch.Tensor:
        channels = x.shape[1]
        y = torch.empty_like(x)
        mean, inverse = x.new_empty((2, channels), dtype=torch.float32)
        kernels.norm_forward(
            x.data_ptr(), x.numel() // channels, channels, _at(weight), _at(bias), relu, eps,
            _at(running[0]), _at(running[1]), momentum, torch.get_num_threads(), y.data_ptr(),
            mean.data_ptr(), inverse.data_ptr(),
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.kernels, ctx.relu = kernels, relu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, mean, inverse = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_weight = torch.empty_like(mean) if ctx.needs_input_grad[1] else None
        d_bias = torch.empty_like(mean) if ctx.needs_input_grad[2] else None
        channels = len(mean)
        ctx.kernels.norm_backward(
            x.data_ptr(), dy.data_ptr(), x.numel() // channels, channels, _at(weight), _at(bias),
            ctx.relu, mean.data_ptr(), inverse.data_ptr(), torch.get_num_threads(), _at(dx),
            _at(d_weight), _at(d_bias),
        )  # fmt: skip
        return dx, d_weight, d_bias, None, None, None, None, None


def _at(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
