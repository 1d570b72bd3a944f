"""Normalization: the mean and spread that the model subtracts and divides by; measured or given."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.errors import ConfigError, Problem
from stages.augment.config import AugmentConfig
from stages.augment.measure import measure_mean_std
from stages.augment.sources import Source
from stages.augment.spec import Normalize, TransformSpec

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

Figures = tuple[float, ...]


def choose_mean_std(
    config: AugmentConfig, spec: DataSpec, source: Source, train: Sequence[int], ctx: Context
) -> tuple[Figures, Figures]:
    """Return mean and standard deviation, one figure a channel, on the 0..1 scale."""
    if config.mean_std == "half":
        return (0.5,) * spec.channels, (0.5,) * spec.channels
    if config.mean_std == "imagenet":
        return _fitted(_IMAGENET_MEAN, spec.channels), _fitted(_IMAGENET_STD, spec.channels)
    given = _given(TransformSpec.load(spec.transforms))
    for figures in (given.mean, given.std):
        if figures is not None and len(figures) != spec.channels:
            raise ConfigError([Problem(path="normalize", message=(
                f"{len(figures)} figure(s) {list(figures)} for {spec.channels} channel(s). "
                "Give one a channel, or leave them out to have them measured."
            ))])  # fmt: skip
    if given.mean is not None and given.std is not None:
        return given.mean, given.std
    mean, std = measure_mean_std(spec, source, train, ctx)
    return given.mean or mean, given.std or std


def _fitted(figures: Figures, channels: int) -> Figures:
    """Return one figure a channel; grey images take the mean of the three."""
    return figures if channels == len(figures) else (sum(figures) / len(figures),) * channels


def _given(transforms: TransformSpec) -> Normalize:
    operations = [*transforms.train, *transforms.eval]
    return next((op for op in operations if isinstance(op, Normalize)), Normalize())
