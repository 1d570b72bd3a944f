"""Schedule: which samples stand in which batch, as a pure function of seed, epoch and shard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

_WINDOW = 50
"""Batches that samples of like length are looked for in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The order of samples in every epoch, for one of `world` processes."""

    samples: int
    batch_size: int
    train: bool
    """Shuffled anew each epoch, last short batch dropped; else manifest order, all of it."""
    seed: int = 0
    rank: int = 0
    world: int = 1
    lengths: NDArray[np.int64] | None = None
    """Of each sample; where they are given, batches of training hold samples of like length."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise DataError(f"shard: rank {self.rank} of {self.world}. Allowed: 0 to world - 1.")
        if self.batch_size < 1:
            raise DataError(f"batch_size: {self.batch_size}. Allowed: 1 or more.")
        if self.num_batches == 0:
            raise DataError(
                f"batch_size: {self.samples} samples make no batch of {self.batch_size} for each "
                f"of {self.world} process(es). Use a smaller batch_size or more data."
            )

    @property
    def num_samples(self) -> int:
        """Samples of one epoch in this shard; in train it is the same for every shard."""
        if self.train:
            return self.samples // self.world // self.batch_size * self.batch_size
        return len(range(self.rank, self.samples, self.world))

    @property
    def num_batches(self) -> int:
        """Batches of one epoch in this shard."""
        return -(-self.num_samples // self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the manifest positions of one epoch in this shard: (num_samples,)."""
        if not self.train:
            return np.arange(self.rank, self.samples, self.world)
        # One permutation for all processes, dealt out in turn: disjoint, and together everything.
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
        mine = shuffled[self.rank :: self.world][: self.num_samples]
        return mine if self.lengths is None else self._by_length(mine, epoch)

    def _by_length(self, order: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Sort windows of some batches by length, then shuffle the batches.

        A batch is as long as its longest sample: in windows, little is filled up, and which samples
        stand together still changes from epoch to epoch.
        """
        assert self.lengths is not None
        batches: list[NDArray[np.int64]] = []
        window = _WINDOW * self.batch_size
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += np.split(part, range(self.batch_size, len(part), self.batch_size))
        turns = np.random.default_rng([self.seed, epoch, self.rank, 3]).permutation(len(batches))
        return np.concatenate([batches[turn] for turn in turns])

    def batch(self, order: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """Return the positions in one batch of an epoch's order."""
        return order[number * self.batch_size : (number + 1) * self.batch_size]

    def key(self, epoch: int, number: int) -> tuple[int, ...]:
        """Return what seeds the random numbers of one batch."""
        return (self.seed, epoch, self.rank, number, 1)
