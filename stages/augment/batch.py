"""Batch: what a loader hands over, the same from every backend.

Shapes: N samples, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Mix:
    """How mixup or cutmix blended a batch: each sample's partner and the share of its own label."""

    partner: torch.Tensor  # (N,) int64, a permutation of the batch
    weight: torch.Tensor  # (N,) float32 in 0..1, the share of the sample's own label


@dataclass(frozen=True, slots=True)
class Batch:
    """Images as they leave the loader (uint8; the model normalizes) and their labels."""

    images: torch.Tensor  # (N, H, W, C) uint8
    targets: torch.Tensor  # (N,) int64
    index: torch.Tensor  # (N,) int64, position in the split's manifest
    mix: Mix | None = None


class Loader(Protocol):
    """An endless source of epochs that knows where it stands."""

    batch_size: int
    num_samples: int
    """Samples of one epoch in this shard."""

    def __len__(self) -> int:
        """Return the number of batches of one epoch."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch; the next call starts the next one.

        Leaving the loop early and iterating again goes on to the next epoch, never a stale one.
        """
        ...

    def state_dict(self) -> Mapping[str, str | int]:
        """Return the position after the batch yielded last; JSON-safe, exact in mid-epoch."""
        ...

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Go back to a position; what follows is bit-equal to what followed then."""
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...
