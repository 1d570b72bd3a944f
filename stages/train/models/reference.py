"""Reference: what a network is built from, so that another process can build the same one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.artifacts import Argument, DataSpec, ModuleRef
from pipeline.errors import ConfigError
from stages.train.config import TrainConfig
from stages.train.models.classifier import Classifier
from stages.train.models.factory import FACTORY, build_model
from stages.train.models.text_factory import TEXT_FACTORY, build_text_model

_BUILDERS: dict[str, Callable[..., Classifier]] = {
    FACTORY: build_model,
    TEXT_FACTORY: build_text_model,
}


def reference(config: TrainConfig, spec: DataSpec) -> ModuleRef:
    """Return how to build the network that a configuration names, for the data at hand.

    Raises:
        ConfigError: an option of the model is the data's to say.
    """
    factory, of_data = (
        (FACTORY, _of_images(config, spec)) if spec.tokens is None else _of_texts(spec)
    )
    own = {"name": config.model, "classes": len(spec.classes), **of_data}
    for key in config.model_options:
        if key in own or key == "fff":
            raise ConfigError(
                f"stages.train.model_options.{key}: comes from the data set, it cannot be set. "
                "Remove it."
            )
    fff: dict[str, Argument] = {"fff": config.fff.model_dump()} if config.fff else {}
    return ModuleRef(factory=factory, arguments={**own, **fff, **config.model_options})


def build(ref: ModuleRef) -> Classifier:
    """Build a network, with fresh random weights.

    Raises:
        ConfigError: there is no such model, or it does not fit the data.
    """
    return _BUILDERS[ref.factory](**ref.arguments)


def without_fff(ref: ModuleRef) -> ModuleRef:
    """Return the reference of the same network with its dense layers."""
    return replace(ref, arguments={k: v for k, v in ref.arguments.items() if k != "fff"})


def _of_images(config: TrainConfig, spec: DataSpec) -> dict[str, Argument]:
    return {
        "height": spec.height,
        "width": spec.width,
        "channels": spec.channels,
        "mean": spec.mean,
        "std": spec.std,
        "small_input": config.small_input is True,
    }


def _of_texts(spec: DataSpec) -> tuple[str, dict[str, Argument]]:
    tokens = spec.tokens
    assert tokens is not None
    return TEXT_FACTORY, {
        "vocabulary": tokens.vocabulary,
        "length": tokens.length,
        "padding": tokens.padding,
        "separator": tokens.separator,
        "parts": tokens.parts,
    }
