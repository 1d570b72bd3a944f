"""Text factory: builds the network for texts that a `ModuleRef` names."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipeline.errors import ConfigError
from stages.train.fff.swap import swap_feedforward
from stages.train.models.classifier import TextClassifier
from stages.train.models.factory import Option, first_line, own_body
from stages.train.models.names import kind_problem, model_problem

TEXT_FACTORY = "stages.train.models.text_factory:build_text_model"


def build_text_model(
    name: str,
    *,
    classes: int,
    vocabulary: int,
    length: int,
    padding: int,
    separator: int,
    parts: int = 1,
    fff: Mapping[str, object] | None = None,
    **options: Option,
) -> TextClassifier:
    """Build a network by a dotted path, with fresh random weights.

    The factory is given those of ``classes``, ``vocabulary``, ``length``, ``padding``,
    ``separator`` and ``parts`` that it takes, and returns a module that maps int32 tokens (N, L),
    L from 1 to `length`, to logits (N, classes).

    Raises:
        ConfigError: there is no such model, or it does not take these options or such texts.
    """
    problem = kind_problem(name, "text") or model_problem(name)
    if problem:
        raise ConfigError(f"stages.train.model: {problem}")
    of_data = {
        "classes": classes, "vocabulary": vocabulary, "length": length, "padding": padding,
        "separator": separator, "parts": parts,
    }  # fmt: skip
    try:
        body = own_body(name, of_data, options, maps="int32 tokens (N, L)")
    except (TypeError, ValueError) as error:
        raise ConfigError(_does_not_fit(name, options, error)) from error
    if fff is not None:
        swap_feedforward(body, fff)
    model = TextClassifier(body)
    _try_two_texts(model, name, classes=classes, length=length)
    return model


def _try_two_texts(model: TextClassifier, name: str, *, classes: int, length: int) -> None:
    """Run two texts through at two lengths, so that a wrong size fails before data is opened."""
    was_training = model.training
    for tokens in {1, length}:
        try:
            with torch.no_grad():
                logits = model.eval()(torch.zeros((2, tokens), dtype=torch.int32))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            raise ConfigError(_does_not_fit(name, {}, error)) from error
        if tuple(logits.shape) != (2, classes):
            raise ConfigError(
                f"stages.train.model: '{name}' gives an output of shape {tuple(logits.shape)} for "
                f"two texts; it must be (2, {classes}): one logit a class."
            )
    model.train(was_training)


def _does_not_fit(name: str, options: Mapping[str, Option], error: Exception) -> str:
    with_options = f" with model_options {dict(options)}" if options else ""
    return (
        f"stages.train.model: '{name}' cannot be built for texts{with_options}: "
        f"{first_line(error)}. Change augment.text, model_options, or the model."
    )
