"""Swap: feedforward layers of a network become fast ones.

Known forms: timm's `Mlp`, the `intermediate` and `output` of BERT-like layers of transformers, and
torch's `nn.TransformerEncoderLayer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from timm.layers.mlp import Mlp
from torch import nn

from pipeline.errors import ConfigError, nearest
from stages.train.fff.config import FffConfig
from stages.train.fff.layer import FFF, fast_layers


@dataclass(frozen=True, slots=True)
class Feedforward:
    """A feedforward layer of a network: two linear layers with an activation between them."""

    name: str
    """Of what is replaced, in the network."""
    first: nn.Linear
    second: nn.Linear
    activation: nn.Module
    replace: Callable[[FFF], None]
    """Puts another layer in its place."""

    def faster(self, config: FffConfig) -> FFF:
        """Return a fast layer of the same inputs, outputs and activation."""
        layer = FFF(
            self.first.in_features,
            self.second.out_features,
            config.depth,
            config.trees,
            self.activation,
            bias=self.first.bias is not None,
            dense_width=config.dense_width,
            form=config.form,
            balance=config.balance,
            hardening=config.hardening,
        )
        return layer.to(device=self.first.weight.device, dtype=self.first.weight.dtype)


def find_feedforward(module: nn.Module) -> list[Feedforward]:
    """Return the feedforward layers of a network, in its order."""
    found = []
    for name, layer in module.named_modules():
        for recognize in (_timm_mlp, _bert_layer, _torch_encoder_layer):
            feedforward = recognize(module, name, layer)
            if feedforward is not None:
                found.append(feedforward)
    return found


def swap_feedforward(module: nn.Module, settings: Mapping[str, object]) -> list[str]:
    """Replace feedforward layers by fast ones with random weights, in place.

    Args:
        module: a network.
        settings: of `FffConfig`.

    Returns:
        The names of the fast layers.

    Raises:
        ConfigError: there is no such layer.
    """
    config = FffConfig.model_validate(settings)
    for feedforward in chosen_layers(module, config):
        feedforward.replace(feedforward.faster(config))
    return list(fast_layers(module))


def chosen_layers(module: nn.Module, config: FffConfig) -> list[Feedforward]:
    """Return the feedforward layers of a network that the configuration names, in its order.

    Raises:
        ConfigError: there is no such layer.
    """
    layers = find_feedforward(module)
    if not layers:
        raise ConfigError(
            f"stages.train.fff: {type(module).__name__} has no feedforward layer that dlpipe knows "
            "(timm's Mlp, BERT's intermediate and output, nn.TransformerEncoderLayer). Use a "
            "transformer such as 'vit_tiny_patch16_224', or remove fff."
        )
    return layers if config.layers == "all" else _named(config.layers, layers)


def _named(patterns: list[str], layers: list[Feedforward]) -> list[Feedforward]:
    names = [layer.name for layer in layers]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"stages.train.fff.layers: '{pattern}' is no feedforward layer of this network. "
                f"Allowed: {', '.join(names)}.{nearest(pattern, names)}"
            )
    return [
        layer for layer in layers if any(fnmatchcase(layer.name, pattern) for pattern in patterns)
    ]


def _timm_mlp(module: nn.Module, name: str, layer: nn.Module) -> Feedforward | None:
    if type(layer) is not Mlp or not isinstance(layer.norm, nn.Identity):
        return None
    first, second = layer.fc1, layer.fc2
    if not (isinstance(first, nn.Linear) and isinstance(second, nn.Linear)):
        return None  # convolutions over maps

    def replace(fast: FFF) -> None:
        module.set_submodule(name, nn.Sequential(fast, layer.drop2))

    return Feedforward(name, first, second, layer.act, replace)


def _bert_layer(module: nn.Module, name: str, layer: nn.Module) -> Feedforward | None:
    inner, output = getattr(layer, "intermediate", None), getattr(layer, "output", None)
    first, second = getattr(inner, "dense", None), getattr(output, "dense", None)
    if not (isinstance(first, nn.Linear) and isinstance(second, nn.Linear)):
        return None
    activation = getattr(inner, "intermediate_act_fn", None)

    def replace(fast: FFF) -> None:
        layer.intermediate = fast
        output.dense = nn.Identity()  # type: ignore[union-attr]

    kept = activation if isinstance(activation, nn.Module) else nn.GELU()
    return Feedforward(f"{name}.intermediate", first, second, kept, replace)


def _torch_encoder_layer(module: nn.Module, name: str, layer: nn.Module) -> Feedforward | None:
    if not isinstance(layer, nn.TransformerEncoderLayer) or isinstance(layer.linear1, FFF):
        return None
    kind = nn.ReLU if layer.activation is torch.nn.functional.relu else nn.GELU
    activation = layer.activation if isinstance(layer.activation, nn.Module) else kind()

    def replace(fast: FFF) -> None:
        layer.linear1, layer.linear2 = fast, nn.Identity()  # type: ignore[assignment]
        layer.activation = nn.Identity()
        layer.activation_relu_or_gelu = 0  # else evaluation takes both weights past the layers

    return Feedforward(f"{name}.linear1", layer.linear1, layer.linear2, activation, replace)
