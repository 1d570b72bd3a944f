"""Loader: opens a split of a `DataSpec`. The one door through which other stages read data."""

from __future__ import annotations

from typing import Literal

from pipeline.artifacts import DataSpec
from pipeline.device import CPU, Device
from stages.augment.batch import Batch, Loader, Mix

__all__ = ["Batch", "Loader", "Mix", "open_loader"]

SplitName = Literal["train", "eval", "calibration"]


def open_loader(
    spec: DataSpec,
    split: SplitName,
    *,
    batch_size: int | None = None,
    device: Device = CPU,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    backend: str | None = None,
) -> Loader:
    """Open a loader over one split; `train` is shuffled and augmented, the others keep their order.

    Args:
        spec: what the augment stage left.
        split: ``train`` (endless epochs of random crops and so on, last short batch dropped),
            ``eval`` or ``calibration`` (eval transform, manifest order, last short batch kept).
        batch_size: defaults to the spec's.
        device: where decoding and transforms run; the tensors of a batch are on it.
        seed: same seed, same batches, whatever the number of threads.
        shard: (rank, world): this process's share of every epoch.
        backend: defaults to the spec's.
    """
    raise NotImplementedError
