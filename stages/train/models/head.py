"""Head: the last layers of a network, the only ones whose shape depends on the classes."""

from __future__ import annotations

from torch import nn


def head_layers(body: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that give the logits: timm's classifiers, else the last layer.

    A network of one's own has no list of them; its head is its last linear layer or convolution.
    """
    described = getattr(body, "pretrained_cfg", None)
    named = described.get("classifier") if isinstance(described, dict) else None
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    last = [name for name, layer in body.named_modules() if isinstance(layer, _LAST)]
    return tuple(last[-1:])


def is_in(name: str, layers: tuple[str, ...]) -> bool:
    """Tell whether a tensor belongs to one of these layers."""
    return any(name == layer or name.startswith(layer + ".") for layer in layers)


_LAST = (nn.Linear, nn.Conv2d)
