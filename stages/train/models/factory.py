"""Factory: builds the network that a `ModuleRef` names; export calls it by its dotted path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import timm
import torch
from torch import nn

from pipeline.errors import ConfigError
from stages.train.fff.swap import swap_feedforward
from stages.train.models.classifier import ImageClassifier
from stages.train.models.names import model_problem
from stages.train.models.stem import has_large_stem, shrink_stem

Option = str | int | float | bool
FACTORY = "stages.train.models.factory:build_model"


def build_model(
    name: str,
    *,
    classes: int,
    height: int,
    width: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    small_input: bool = False,
    fff: Mapping[str, object] | None = None,
    **options: Option,
) -> ImageClassifier:
    """Build a network by timm's name or by a dotted path, with fresh random weights.

    Raises:
        ConfigError: there is no such model, or it does not take these options or this image size.
    """
    problem = model_problem(name)
    if problem:
        raise ConfigError(f"stages.train.model: {problem}")
    sizes = {"classes": classes, "height": height, "width": width, "channels": channels}
    body = _image_body(name, sizes, options) if ":" in name else _timm_body(name, sizes, options)
    if small_input:
        if not has_large_stem(body):
            raise ConfigError(
                f"stages.train.small_input: '{name}' has no 7x7/2 stem to replace. "
                "Use small_input: auto."
            )
        shrink_stem(body)
    if fff is not None:
        swap_feedforward(body, fff)
    model = ImageClassifier(body, mean, std)
    _try_one_batch(model, name, sizes)
    return model


def _timm_body(name: str, sizes: Mapping[str, int], options: Mapping[str, Option]) -> nn.Module:
    settings: dict[str, Any] = dict(options)
    pretrained_cfg = timm.models.get_pretrained_cfg(name)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        settings["img_size"] = (sizes["height"], sizes["width"])
    try:
        body: nn.Module = timm.create_model(
            name, in_chans=sizes["channels"], num_classes=sizes["classes"], **settings
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(_does_not_fit(name, sizes, options, error)) from error
    return body


def _image_body(name: str, sizes: Mapping[str, int], options: Mapping[str, Option]) -> nn.Module:
    try:
        return own_body(name, sizes, options, maps="float (N, C, H, W)")
    except TypeError as error:
        raise ConfigError(_does_not_fit(name, sizes, options, error)) from error


def own_body(
    name: str, of_data: Mapping[str, int], options: Mapping[str, Option], *, maps: str
) -> nn.Module:
    """Call a user's factory with those figures of the data that it takes.

    Args:
        name: its dotted path.
        of_data: the figures.
        options: passed on as they are.
        maps: what the module has to map to logits, for messages.

    Raises:
        ConfigError: there is no such factory, or it returns no module.
        TypeError: it does not take these options.
    """
    module, _, function = name.partition(":")
    factory: Callable[..., nn.Module] | None = getattr(import_module(module), function, None)
    if factory is None:
        raise ConfigError(f"stages.train.model: the module '{module}' has no '{function}'.")
    taken = inspect.signature(factory).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
    wanted = {key: value for key, value in of_data.items() if takes_all or key in taken}
    body = factory(**wanted, **options)
    if not isinstance(body, nn.Module):
        raise ConfigError(
            f"stages.train.model: '{name}' returned a {type(body).__name__}; it must return a "
            f"torch.nn.Module that maps {maps} to logits (N, classes)."
        )
    return body


def _try_one_batch(model: ImageClassifier, name: str, sizes: Mapping[str, int]) -> None:
    """Run two black images through, so that a wrong size fails before the data is opened."""
    shape = (2, sizes["height"], sizes["width"], sizes["channels"])
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(shape, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(_does_not_fit(name, sizes, {}, error)) from error
    model.train(was_training)
    if tuple(logits.shape) != (2, sizes["classes"]):
        raise ConfigError(
            f"stages.train.model: '{name}' gives an output of shape {tuple(logits.shape)} for two "
            f"images; it must be (2, {sizes['classes']}): one logit a class."
        )


def _does_not_fit(
    name: str, sizes: Mapping[str, int], options: Mapping[str, Option], error: Exception
) -> str:
    images = f"{sizes['width']}x{sizes['height']} images with {sizes['channels']} channel(s)"
    with_options = f" and model_options {dict(options)}" if options else ""
    return (
        f"stages.train.model: '{name}' cannot be built for {images}{with_options}: "
        f"{first_line(error)}. "
        "Change augment.size, model_options, or the model."
    )


def first_line(error: Exception) -> str:
    """Return what an error says first, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
