"""Accuracy: how well a side does after so many seconds of training, and data to find that out with.

curve = Curve([Point(seconds=20.1, top1=0.914), Point(seconds=40.0, top1=0.927)])
curve.seconds_to(0.92)       # 40.0: accuracy is looked at when an epoch is over
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
from numpy.typing import NDArray

from stages.augment.sources.idx import read_idx
from stages.augment.split import stratified_split

HELD_OUT = 1 / 6
"""Of the training images, for `--validation`: 10,000 of Fashion-MNIST's 60,000."""
_PARTS = ("train", "t10k")
Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at the end of an epoch."""

    seconds: float
    """Of training up to there, without evaluation."""
    top1: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One run of one side."""

    points: Sequence[Point]

    def seconds_to(self, top1: float) -> float:
        """Return when an accuracy was first reached; infinite: never."""
        return next((p.seconds for p in self.points if p.top1 >= top1), float("inf"))

    @property
    def last(self) -> Point:
        """The end of the run."""
        return self.points[-1]


def figures_of(
    name: str, curves: Sequence[Curve], marks: Mapping[float, float]
) -> dict[str, float]:
    """Return one side's figures over its seeds.

    Args:
        name: of the side.
        curves: one a seed.
        marks: for each accuracy, the seconds within which it should be reached.
    """
    last = [curve.last.top1 for curve in curves]
    seconds = [curve.last.seconds for curve in curves]
    figures = {
        f"{name}: top-1 at the end": mean(last),
        f"{name}: top-1 at the end, standard deviation": stdev(last) if len(last) > 1 else 0.0,
        f"{name}: top-1 at the end, worst seed": min(last),
        f"{name}: s of training": mean(seconds),
        f"{name}: s of training, standard deviation": stdev(seconds) if len(seconds) > 1 else 0.0,
    }
    for mark, limit in marks.items():
        times = [curve.seconds_to(mark) for curve in curves]
        reached = [time for time in times if time < float("inf")]
        figures[f"{name}: share of seeds that reach {mark:.1%}"] = len(reached) / len(times)
        if reached:
            figures[f"{name}: s to {mark:.1%}, mean of those"] = mean(reached)
        figures[f"{name}: {limit:g} s / s to {mark:.1%}, median seed"] = limit / median(times)
    return figures


def hold_out(source: Path, folder: Path) -> None:
    """Write idx files whose eval part is held out of the training part; the test part is not read.

    Args:
        source: holds ``train-images-idx3-ubyte.gz`` and the labels.
        folder: gets a train and a t10k pair of the same form.
    """
    images = read_idx(source / "train-images-idx3-ubyte.gz")
    labels = read_idx(source / "train-labels-idx1-ubyte.gz")
    parts = stratified_split(labels.tolist(), HELD_OUT, seed=0)
    for name, chosen in zip(_PARTS, parts, strict=True):
        write_pair(folder, name, images[chosen], labels[chosen])


def write_blobs(folder: Path, *, classes: int, train: int, test: int) -> None:
    """Write idx files of 28x28 noise with a bright square at a place that tells the class."""
    draw = np.random.default_rng(0)
    for name, count in zip(_PARTS, (train, test), strict=True):
        labels = (np.arange(count) % classes).astype(np.uint8)
        images = draw.integers(0, 100, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[row * 7 : row * 7 + 7, column * 7 : column * 7 + 7] += 120
        write_pair(folder, name, images, labels)


def write_pair(folder: Path, name: str, images: Images, labels: Images) -> None:
    """Write images and labels as two gzipped idx files."""
    for kind, array in (("images", images), ("labels", labels)):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        path = folder / f"{name}-{kind}-idx{array.ndim}-ubyte.gz"
        path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))


def read_pair(folder: Path, name: str) -> tuple[Images, Images]:
    """Read images (N, H, W) and labels (N,)."""
    return (
        read_idx(folder / f"{name}-images-idx3-ubyte.gz"),
        read_idx(folder / f"{name}-labels-idx1-ubyte.gz"),
    )
