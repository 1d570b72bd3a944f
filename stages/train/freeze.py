"""Freeze: which parameters keep their values, and until when.

freeze: all_but_head             # everything but the layers that give the logits
freeze: [conv1, "layer[12].*"]   # layers or parameters by name, * and ? as in a shell
freeze: {until: layer3}          # everything before that layer
unfreeze_after: 2                # epochs after which everything learns
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pipeline.errors import ConfigError, nearest
from stages.train.finetune_config import Freeze, FreezeUntil
from stages.train.models.classifier import Classifier
from stages.train.models.head import head_layers, is_in


@dataclass(frozen=True, slots=True)
class Freezing:
    """The parameters of a network that do not learn, and for how long."""

    module: Classifier
    names: frozenset[str]
    """Of the body's parameters."""
    epochs: int | None
    """How many epochs they keep their values; None: all."""

    def begin_epoch(self, epoch: int) -> bool:
        """Freeze or free the parameters for an epoch (0 is the first); tell if any are frozen.

        Norms whose own parameters are frozen also keep their statistics: with new statistics a
        frozen layer would be another layer.
        """
        frozen = self.names if self.epochs is None or epoch < self.epochs else frozenset()
        for name, parameter in self.module.body.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self.module.held = tuple(
            layer
            for name, layer in self.module.body.named_modules()
            if isinstance(layer, _NormBase) and _is_frozen(name, layer, frozen)
        )
        self.module.train(self.module.training)
        return bool(frozen)


def plan_freezing(module: Classifier, freeze: Freeze, epochs: int | None) -> Freezing | None:
    """Find what the configuration names; None if nothing is to be frozen.

    Raises:
        ConfigError: a name matches nothing, or nothing is left that could learn.
    """
    if freeze is False:
        return None
    body = module.body
    names = [name for name, _ in body.named_parameters()]
    if freeze == "all_but_head":
        head = head_layers(body)
        frozen = {name for name in names if not is_in(name, head)}
    elif isinstance(freeze, FreezeUntil):
        frozen = set(names[: _first_of(freeze.until, names, body)])
    else:
        frozen = {name for pattern in freeze for name in _matching(pattern, names, body)}
    if len(frozen) == len(names):
        raise ConfigError(
            "stages.train.freeze: nothing is left that learns. Leave out the name of a layer, or "
            "use freeze: all_but_head."
        )
    return Freezing(module, frozenset(frozen), epochs)


def _is_frozen(name: str, layer: nn.Module, frozen: frozenset[str]) -> bool:
    own = [f"{name}.{parameter}" for parameter, _ in layer.named_parameters(recurse=False)]
    return bool(own) and all(parameter in frozen for parameter in own)


def _first_of(layer: str, names: Sequence[str], body: nn.Module) -> int:
    for number, name in enumerate(names):
        if is_in(name, (layer,)):
            return number
    raise _unknown(f"until: '{layer}'", layer, body)


def _matching(pattern: str, names: Sequence[str], body: nn.Module) -> list[str]:
    found = [n for n in names if any(fnmatchcase(part, pattern) for part in _with_parents(n))]
    if not found:
        raise _unknown(f"'{pattern}'", pattern, body)
    return found


def _with_parents(name: str) -> list[str]:
    """Return ``a``, ``a.b`` and ``a.b.c`` for ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _unknown(what: str, name: str, body: nn.Module) -> ConfigError:
    names = [parameter for parameter, _ in body.named_parameters()]
    layers = list(dict.fromkeys(parameter.partition(".")[0] for parameter in names))
    every = {part for parameter in names for part in _with_parents(parameter)}
    return ConfigError(
        f"stages.train.freeze: {what} matches no parameter of the network. Allowed: names of its "
        f"layers ({', '.join(layers)}) or of anything in them, with * and ?."
        f"{nearest(name, sorted(every, key=len))}"
    )
