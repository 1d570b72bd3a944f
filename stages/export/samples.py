"""Samples: the images and labels that export reads through the one loader of the chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.errors import DataError
from stages.augment.loader import join_batches, open_loader
from stages.export.arrays import Images


@dataclass(frozen=True, slots=True)
class Labelled:
    """A batch of the eval split as numpy arrays."""

    images: Images
    targets: NDArray[np.int64]
    index: NDArray[np.int64]


def calibration_images(spec: DataSpec, count: int, batch: int, ctx: Context) -> Images:
    """Return up to `count` images of the calibration split, eval-preprocessed, in manifest order.

    Raises:
        DataError: the split is empty.
    """
    loader = open_loader(spec, "calibration", batch_size=min(batch, count), seed=ctx.seed)
    parts: list[Images] = []
    have = 0
    try:
        for taken in loader:
            ctx.stop.check()
            parts.append(taken.inputs.cpu().numpy())
            have += len(parts[-1])
            if have >= count:
                break
    finally:
        loader.close()
    if not parts:
        raise DataError(
            f"export: the calibration split of '{spec.name}' is empty; INT8 ranges and parity "
            "need images. Give augment a calibration split."
        )
    return join_batches(parts, spec)[:count]


def at_least(images: Images, count: int) -> Images:
    """Return `images` repeated until there are `count` of them."""
    return np.concatenate([images] * -(-count // len(images)))[:count]


def eval_batches(spec: DataSpec, batch: int, ctx: Context) -> Iterator[Labelled]:
    """Yield the whole eval split once."""
    loader = open_loader(spec, "eval", batch_size=batch, seed=ctx.seed)
    try:
        for taken in loader:
            yield Labelled(
                images=taken.inputs.cpu().numpy(),
                targets=taken.targets.cpu().numpy(),
                index=taken.index.cpu().numpy(),
            )
    finally:
        loader.close()
