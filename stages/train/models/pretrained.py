"""Pretrained weights: a weights file laid over a fresh network, and what of it did not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timm.models import adapt_input_conv
from torch import nn

from pipeline.errors import ConfigError
from stages.train.models.classifier import Classifier
from stages.train.models.head import head_layers, is_in
from stages.train.models.weights_file import WeightsFile

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What became of each tensor."""

    loaded: int
    new_head: tuple[str, ...]
    """Tensors of the head that stay as initialized, since the classes are others."""
    fresh: tuple[str, ...]
    """Other tensors of the network that the file does not have in this shape."""
    unused: tuple[str, ...]
    """Tensors of the file for which the network has no place."""
    input_adapted: bool
    """Whether the first convolution was summed or repeated for another number of channels."""

    @property
    def is_whole(self) -> bool:
        """Whether no tensor of the network stayed as it was initialized."""
        return not self.new_head and not self.fresh


def load_pretrained(model: Classifier, file: WeightsFile, classes: Sequence[str]) -> Fit:
    """Lay the weights over a network: body as it is, head only if it tells the same classes.

    Renamed tensors, position embeddings of another image size and input convolutions of another
    number of channels are brought into form as timm does.

    Raises:
        ConfigError: less than half of the network fits.
    """
    body = model.body
    own: Tensors = body.state_dict()
    given = _as_timm_names_them(body, dict(file.tensors), file)
    adapted = _adapt_input(body, given, own)
    head = head_layers(body)
    if file.note is not None and file.note.classes != tuple(classes):
        given = {name: tensor for name, tensor in given.items() if not is_in(name, head)}
    fits = {n: t for n, t in given.items() if n in own and own[n].shape == t.shape}
    missing = own.keys() - fits.keys()
    if 2 * len(fits) < len(own):
        first = next((n for n in file.tensors if n not in fits), "")
        of_model = f", written for '{file.note.model}'," if file.note else ""
        raise ConfigError(
            f"stages.train.pretrained: '{file.path}'{of_model} fits {len(fits)} of the network's "
            f"{len(own)} tensors by name and shape (its '{first}' has no place). Give weights of "
            "the same model."
        )
    body.load_state_dict(fits, strict=False)
    return Fit(
        loaded=len(fits),
        new_head=tuple(sorted(n for n in missing if is_in(n, head))),
        fresh=tuple(sorted(n for n in missing if not is_in(n, head))),
        unused=tuple(sorted(n for n in given if n not in fits and not is_in(n, head))),
        input_adapted=adapted,
    )


def _as_timm_names_them(body: nn.Module, tensors: Tensors, file: WeightsFile) -> Tensors:
    """Apply timm's own filter of this family of models, where it has one."""
    rename: Callable[[Tensors, nn.Module], Tensors] | None = getattr(
        sys.modules[type(body).__module__], "checkpoint_filter_fn", None
    )
    if rename is None or not type(body).__module__.startswith("timm."):
        return tensors
    try:
        return dict(rename(tensors, body))
    except (KeyError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"stages.train.pretrained: '{file.path}' holds no weights of this family of models "
            f"({type(error).__name__}: {error}). Give weights of the same model."
        ) from error


def _adapt_input(body: nn.Module, given: Tensors, own: Tensors) -> bool:
    """Sum or repeat the channels of the first convolutions, in place, where only they differ."""
    described = getattr(body, "pretrained_cfg", None)
    first = described.get("first_conv") if isinstance(described, dict) else None
    adapted = False
    for layer in (first,) if isinstance(first, str) else tuple(first or ()):
        name = f"{layer}.weight"
        if name not in given or name not in own or given[name].ndim != 4 or own[name].ndim != 4:
            continue
        have, want = given[name].shape, own[name].shape
        if have[1] != want[1] and have[0] == want[0] and have[2:] == want[2:]:
            given[name] = adapt_input_conv(want[1], given[name], base_chans=have[1])
            adapted = True
    return adapted
