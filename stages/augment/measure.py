"""Measure: figures that only a running loader can tell: mean and spread of pixels, images a second.

Shapes: N samples, H height, W width, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline.artifacts import DataSpec, Split
from pipeline.context import Context
from stages.augment.loader import open_loader
from stages.augment.sources import Source
from stages.augment.split import stratified_sample

STATISTICS_SAMPLES = 2000
THROUGHPUT_S = 1.5
_BYTE_MAX = 255.0
_STD_FLOOR = 1 / _BYTE_MAX
"""Of images that are all of one colour; dividing by less would blow up the last bit."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What the train loader delivers with nobody computing on its batches."""

    images_per_s: float
    images: int
    seconds: float


def measure_mean_std(
    spec: DataSpec, source: Source, train: Sequence[int], ctx: Context
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel on the 0..1 scale, after the eval transform.

    Large training parts are sampled, with classes in their shares.
    """
    drawn = stratified_sample([source.items[i].label for i in train], STATISTICS_SAMPLES, seed=0)
    with TemporaryDirectory(dir=ctx.dir, prefix=".statistics.") as folder:
        manifest = source.write_manifest("statistics", [train[i] for i in drawn], Path(folder))
        split = Split(manifest=manifest, samples=len(drawn))
        sampled = replace(spec, splits={"calibration": split})
        total = torch.zeros(spec.channels, dtype=torch.float64)
        squares = torch.zeros(spec.channels, dtype=torch.float64)
        pixels = 0
        opened = open_loader(sampled, "calibration", device=ctx.device, on_error="fail")
        with closing(opened) as loader:
            for batch in loader:
                ctx.stop.check()
                values = batch.inputs.reshape(-1, spec.channels).double().cpu() / _BYTE_MAX
                total += values.sum(dim=0)
                squares += values.square().sum(dim=0)
                pixels += len(values)
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt().clamp(min=_STD_FLOOR)
    return _rounded(mean), _rounded(std)


def measure_throughput(
    spec: DataSpec, ctx: Context, *, seconds: float = THROUGHPUT_S
) -> Throughput:
    """Run the train loader alone for a moment, its first batch left out of the count."""
    images = 0
    with closing(open_loader(spec, "train", device=ctx.device, seed=ctx.seed)) as loader:
        next(iter(loader))
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            for batch in loader:
                ctx.stop.check()
                images += len(batch.inputs)
                if (elapsed := time.perf_counter() - started) >= seconds:
                    break
    return Throughput(images_per_s=images / elapsed, images=images, seconds=elapsed)


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    """Six digits: more than enough, and the same on every machine."""
    return tuple(round(float(value), 6) for value in values)
