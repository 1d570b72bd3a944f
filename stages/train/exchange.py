"""Exchange: layers that compute as another kind does, where they are."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def exchange(
    module: nn.Module, suits: Callable[[nn.Module], bool], kind: type[nn.Module]
) -> list[str]:
    """Make layers compute as another kind does; in place, the state dict stays as it is.

    Returns:
        The names of the layers.
    """
    names = [name for name, layer in module.named_modules() if suits(layer)]
    for name in names:
        module.get_submodule(name).__class__ = kind
    return names
