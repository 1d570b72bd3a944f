"""Network: from configuration and data to a module, and the reference to rebuild it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import DataSpec, ModuleRef
from pipeline.errors import ConfigError
from pipeline.events import EventLog
from stages.train.config import TrainConfig
from stages.train.models.classifier import ImageClassifier
from stages.train.models.factory import FACTORY, build_model
from stages.train.models.pretrained import load_pretrained
from stages.train.models.stem import SMALL_IMAGE_PX, has_large_stem, shrink_stem

_FROM_DATA = ("name", "classes", "height", "width", "channels", "mean", "std", "small_input")


def build_network(
    config: TrainConfig, spec: DataSpec, events: EventLog
) -> tuple[ImageClassifier, ModuleRef]:
    """Build the network with random or loaded weights, and say how to build it again.

    Raises:
        ConfigError: there is no such model, or it does not fit the data.
    """
    ref = _reference(config, spec)
    module = build_model(**ref.arguments)  # type: ignore[arg-type]
    if config.small_input == "auto" and _wants_small_stem(config, spec, module):
        shrink_stem(module.body)
        ref = replace(ref, arguments={**ref.arguments, "small_input": True})
        events.info(
            f"small_input: auto gives {config.model} a stem of one 3x3 convolution of stride 1, "
            f"because the images are {spec.width}x{spec.height} (false keeps the faster original)"
        )
    if config.pretrained:
        fresh = load_pretrained(module, Path(config.pretrained))
        rest = ", ".join(fresh) or "none"
        events.info(f"pretrained weights from {config.pretrained}; as initialized: {rest}")
    return module, ref


def _reference(config: TrainConfig, spec: DataSpec) -> ModuleRef:
    for key in config.model_options:
        if key in _FROM_DATA:
            raise ConfigError(
                f"stages.train.model_options.{key}: comes from the data set, it cannot be set. "
                "Remove it."
            )
    return ModuleRef(
        factory=FACTORY,
        arguments={
            "name": config.model,
            "classes": len(spec.classes),
            "height": spec.height,
            "width": spec.width,
            "channels": spec.channels,
            "mean": spec.mean,
            "std": spec.std,
            "small_input": config.small_input is True,
            **config.model_options,
        },
    )


def _wants_small_stem(config: TrainConfig, spec: DataSpec, module: ImageClassifier) -> bool:
    is_small = min(spec.height, spec.width) <= SMALL_IMAGE_PX
    return is_small and not config.pretrained and has_large_stem(module.body)
