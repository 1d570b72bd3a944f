"""AMX: the matrix units of a CPU, and what is rewritten so that convolutions make use of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def computes_in_amx(images: torch.Tensor) -> bool:
    """Tell whether a layer that gets these is trained in bf16, on a CPU with AMX."""
    return (
        images.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and has_amx()
    )


def has_amx() -> bool:
    """Tell whether the CPU multiplies matrices in bf16 by units of their own."""
    return bool(torch.cpu._is_amx_tile_supported())


def exchange(
    module: nn.Module, suits: Callable[[nn.Module], bool], kind: type[nn.Conv2d]
) -> list[str]:
    """Make layers compute as another kind does; in place, the state dict stays as it is.

    Returns:
        The names of the layers.
    """
    names = [name for name, layer in module.named_modules() if suits(layer)]
    for name in names:
        module.get_submodule(name).__class__ = kind
    return names
