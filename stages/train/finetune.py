"""Fine-tuning: which weights training starts from, and the normalization that goes with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.errors import ConfigError
from pipeline.events import EventLog
from pipeline.files import sha256_text
from stages.train.config import TrainConfig
from stages.train.freeze import Freezing, plan_freezing
from stages.train.models.classifier import Classifier
from stages.train.models.pretrained import Fit, load_pretrained
from stages.train.models.timm_weights import (
    Figures,
    download_timm_weights,
    find_timm_weights,
    fitted,
    how_to_fetch,
    timm_mean_std,
)
from stages.train.models.weights_file import Note, WeightsFile, read_weights


def find_weights(config: TrainConfig, events: EventLog) -> WeightsFile | None:
    """Read the weights to start from; None for random ones.

    Raises:
        ConfigError: the file cannot be used, or what was asked for cannot be fetched.
    """
    if not config.pretrained:
        return None
    if config.pretrained not in ("auto", "download"):
        return read_weights(Path(config.pretrained))
    cached = find_timm_weights(config.model)
    if cached is None and config.pretrained == "download":
        events.info(f"pretrained: fetching timm's weights of {config.model}")
        cached = download_timm_weights(config.model)
    if cached is None:
        command = how_to_fetch(config.model)
        mend = f" `{command}` or pretrained: download fetches them." if command else ""
        events.warning(
            f"train.pretrained: auto: there are no weights of timm's '{config.model}' on this "
            f"machine; training starts from random ones.{mend}"
        )
        return None
    return read_weights(cached)


def choose_normalization(
    config: TrainConfig, spec: DataSpec, file: WeightsFile | None, events: EventLog
) -> tuple[Figures, Figures]:
    """Return the mean and standard deviation that the model's first layer uses.

    Weights know images only as they were normalized when they were trained.
    """
    of_data = spec.mean, spec.std
    if file is None or config.normalization == "data" or spec.kind == "text":
        return of_data
    if file.note is not None and file.note.mean:
        chosen = fitted(file.note.mean, spec.channels), fitted(file.note.std, spec.channels)
    else:
        chosen = timm_mean_std(config.model, spec.channels) or of_data
    if chosen != of_data:
        events.info(
            f"normalization: mean {_shown(chosen[0])} and std {_shown(chosen[1])}, with which the "
            f"weights were trained; the data's own are {_shown(spec.mean)} and {_shown(spec.std)} "
            "(normalization: data takes those)"
        )
    return chosen


def start_from(module: Classifier, file: WeightsFile, spec: DataSpec, events: EventLog) -> Fit:
    """Lay the weights over the network; say, and return, what became of each part.

    Raises:
        ConfigError: they are of another network, or know other tokens.
    """
    if file.note is not None and file.note.tokenizer != tokenizer_hash(spec):
        raise ConfigError(
            f"stages.train.pretrained: '{file.path}' was trained on the tokens of another "
            "tokenizer, and means others by their numbers. Load its tokenizer: set "
            "augment.text.tokenizer to the tokenizer.json in that run's augment folder."
        )
    fit = load_pretrained(module, file, spec.classes)
    head = f"new: {', '.join(fit.new_head)}" if fit.new_head else "kept, its classes are the same"
    more = "; the first convolution was adapted to the channels" if fit.input_adapted else ""
    events.info(
        f"pretrained weights from {file.path}: {fit.loaded} tensors; the head is {head}{more}"
    )
    events.emit("pretrained", path=str(file.path), loaded=fit.loaded, new_head=list(fit.new_head))
    if fit.fresh:
        events.warning(
            f"train.pretrained: '{file.path}' lacks {len(fit.fresh)} tensor(s) of the network "
            f"beside the head, which stay random: {_listed(fit.fresh)}."
        )
    if fit.unused:
        events.info(f"pretrained tensors without a place in the network: {_listed(fit.unused)}")
    return fit


def freeze_as_asked(module: Classifier, config: TrainConfig, events: EventLog) -> Freezing | None:
    """Find what is to be frozen, and say how much of the network that is.

    Raises:
        ConfigError: a name matches nothing, or nothing is left that could learn.
    """
    freezing = plan_freezing(module, config.freeze, config.unfreeze_after)
    if freezing is not None:
        sizes = {name: p.numel() for name, p in module.body.named_parameters()}
        kept = sum(sizes[name] for name in freezing.names)
        until = f"for {freezing.epochs} epoch(s)" if freezing.epochs else "for the whole run"
        events.info(
            f"frozen {until}: {len(freezing.names)} of {len(sizes)} parameters, "
            f"{kept / sum(sizes.values()):.1%} of all values"
        )
    return freezing


def tokenizer_hash(spec: DataSpec) -> str:
    """Return a hash of what token numbers mean, however long texts may be; images have none."""
    if spec.tokens is None or spec.preprocess is None:
        return ""
    tokenizer = json.loads(spec.preprocess.read_text(encoding="utf-8"))
    meaning = {key: tokenizer[key] for key in tokenizer.keys() - {"truncation", "padding"}}
    return sha256_text(json.dumps(meaning, sort_keys=True))


def note_of(trained: TrainedModel, spec: DataSpec) -> Note:
    """Return what a file of weights should say about itself, so that others can start from it."""
    arguments = trained.module.arguments
    return Note.model_validate(
        {
            "model": arguments["name"],
            "small_input": arguments.get("small_input", False),
            "classes": trained.classes,
            "mean": arguments.get("mean", ()),
            "std": arguments.get("std", ()),
            "tokenizer": tokenizer_hash(spec),
        }
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _shown(figures: Figures) -> str:
    return "[" + ", ".join(f"{figure:.3f}" for figure in figures) + "]"
