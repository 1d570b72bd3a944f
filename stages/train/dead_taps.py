"""Dead taps: convolutions of which some kernel positions only ever see padding.

A 3x3 convolution of stride 2 on a 1x1 image is one: eight of its nine taps touch padding alone, and
their gradient is zero. oneDNN's bf16 kernel leaves these gradients unwritten (torch 2.14.1 on
CPUs with AVX-512 and AMX), so that they hold whatever memory held before, NaN included. Such layers
are tiny; computing them in fp32 costs nothing and gives exact zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.device import Device
from stages.train.models.classifier import Classifier
from stages.train.precision import Precision


def keep_dead_taps_in_fp32(
    module: Classifier, images: torch.Tensor, precision: Precision, device: Device
) -> list[str]:
    """Let convolutions with dead taps compute in fp32; return their names.

    Args:
        module: changed in place; its state dict stays as it is.
        images: uint8 (N, H, W, C), for their size.
        precision: of training; nothing is changed for fp32.
        device: nothing is changed on CUDA.
    """
    if device.is_cuda or precision.name == "fp32":
        return []
    names = find_dead_taps(module, images)
    for name in names:
        layer = module.get_submodule(name)
        layer.__class__ = _in_fp32(type(layer))
    return names


@torch.no_grad()
def find_dead_taps(module: nn.Module, images: torch.Tensor) -> list[str]:
    """Return the names of the convolutions that have taps which only see padding."""
    found: list[str] = []
    was_training = module.training
    with _watched(module, found):
        module.eval()(images[:1])
    module.train(was_training)
    return found


def has_dead_tap(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Tell whether a tap of a kernel lies outside an axis of that size at every output position."""
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return any(
        all(not 0 <= output * stride - padding + tap * dilation < size for output in range(outputs))
        for tap in range(kernel)
    )


class _InFp32(nn.Module):
    """Put in front of a layer's class: its forward pass leaves autocast."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):
            answer: torch.Tensor = super().forward(images.float())
            return answer

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process by the layer's own class: this one has no name to be found by."""
        return _new_in_fp32, (type(self).__mro__[2],), self.__dict__


_kinds: dict[type[nn.Module], type[nn.Module]] = {}


def _in_fp32(kind: type[nn.Module]) -> type[nn.Module]:
    """Return one class for each kind of layer, so that copies are of the same."""
    if kind not in _kinds:
        _kinds[kind] = type(kind.__name__, (_InFp32, kind), {})
    return _kinds[kind]


def _new_in_fp32(kind: type[nn.Module]) -> nn.Module:
    mixed = _in_fp32(kind)
    return mixed.__new__(mixed)


@contextmanager
def _watched(module: nn.Module, found: list[str]) -> Iterator[None]:
    def watch(name: str, layer: nn.Conv2d) -> torch.utils.hooks.RemovableHandle:
        def look(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if name not in found and _any_axis_dead(layer, inputs[0]):
                found.append(name)

        return layer.register_forward_pre_hook(look)

    handles = [watch(n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _any_axis_dead(layer: nn.Conv2d, images: torch.Tensor) -> bool:
    if isinstance(layer.padding, str):  # "same" and "valid" of stride 1
        return False
    axes = zip(
        images.shape[-2:],
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        strict=True,
    )
    return any(has_dead_tap(*axis) for axis in axes)
