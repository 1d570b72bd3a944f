"""Network: from configuration and data to a module with its first weights and the reference to rebuild it."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import DataSpec, ModuleRef
from pipeline.errors import ConfigError
from pipeline.events import EventLog
from stages.train.config import TrainConfig
from stages.train.models.classifier import ImageClassifier
from stages.train.models.factory import FACTORY, build_model
from stages.train.models.pretrained import load_pretrained
from stages.train.models.stem import SMALL_IMAGE_PX, has_large_stem
from stages.train.reproducible import random_state_kept

_RESERVED = ("classes", "height", "width", "channels", "mean", "std", "small_input", "name")


def build_network(
    config: TrainConfig, spec: DataSpec, events: EventLog
) -> tuple[ImageClassifier, ModuleRef]:
    """Build the network with random or loaded weights, and say how to build it again.

    Raises:
        ConfigError: there is no such model, or it does not fit the data.
    """
    taken = [key for key in config.model_options if key in _RESERVED]
    if taken:
        raise ConfigError(
            f"stages.train.model_options.{taken[0]}: comes from the data set and cannot be set here. Remove it."
        )
    small = config.small_input is True or (
        config.small_input == "auto" and _wants_small_stem(config, spec)
    )
    ref = ModuleRef(
        factory=FACTORY,
        arguments={
            "name": config.model,
            "classes": len(spec.classes),
            "height": spec.height,
            "width": spec.width,
            "channels": spec.channels,
            "mean": spec.mean,
            "std": spec.std,
            "small_input": small,
            **config.model_options,
        },
    )
    module = build_model(**ref.arguments)  # type: ignore[arg-type]
    if small and config.small_input == "auto":
        events.info(
            f"small_input: auto replaces the stem of {config.model} by a 3x3 convolution of stride 1, because the "
            f"images are {spec.width}x{spec.height} (set small_input: false for the faster original)"
        )
    if config.pretrained:
        fresh = load_pretrained(module, Path(config.pretrained))
        events.info(
            f"pretrained weights from {config.pretrained}; as initialized: {', '.join(fresh) or 'none'}"
        )
    return module, ref


def _wants_small_stem(config: TrainConfig, spec: DataSpec) -> bool:
    if config.pretrained or min(spec.height, spec.width) > SMALL_IMAGE_PX:
        return False
    with random_state_kept():
        probe = build_model(
            config.model,
            classes=len(spec.classes),
            height=spec.height,
            width=spec.width,
            channels=spec.channels,
            mean=spec.mean,
            std=spec.std,
            **config.model_options,
        )
    return has_large_stem(probe.body)
