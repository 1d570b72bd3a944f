"""Executor: what a backend of the augment stage offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray


@runtime_checkable
class MeasuresLength(Protocol):
    """An executor whose samples are of many lengths."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """What each sample costs, by manifest position: (samples,)."""
        ...


class Executor(Protocol):
    """What a backend offers: a queue that images come out of in the order they were asked for."""

    depth: int
    """How many batches are worth having in the queue."""

    def submit(self, positions: NDArray[np.int64], key: Sequence[int]) -> None:
        """Ask for the images at these manifest positions, with random numbers drawn from `key`."""
        ...

    def collect(self) -> torch.Tensor:
        """Return the images (N, H, W, C) asked for first; raises `DamagedSample`."""
        ...

    def drain(self) -> None:
        """Forget what is in the queue."""
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...
