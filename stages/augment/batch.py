"""Batch: what a loader hands over, the same from every backend.

Shapes: N samples, H height, W width, C channels, L tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts import DataSpec

Inputs = NDArray[np.uint8 | np.int32]
"""What a model takes, as numpy has it: images (N, H, W, C), or the tokens of texts (N, L)."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How mixup or cutmix blended a batch: each sample's partner and the share of its own label."""

    partner: torch.Tensor  # (N,) int64, a permutation of the batch
    weight: torch.Tensor  # (N,) float32 in 0..1, the share of the sample's own label


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples as they leave the loader and their labels; the model normalizes images."""

    inputs: torch.Tensor  # images (N, H, W, C) uint8, or the tokens of texts (N, L) int32
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


def join_batches(parts: Sequence[Inputs], spec: DataSpec) -> Inputs:
    """Return what several batches hold as one; texts are filled up to the longest of all."""
    if spec.tokens is not None:
        longest = max(part.shape[1] for part in parts)
        parts = [fill_up(part, longest, spec.tokens.padding) for part in parts]
    whole: Inputs = np.concatenate(parts)
    return whole


def fill_up(tokens: Inputs, length: int, padding: int) -> Inputs:
    """Return tokens (N, L) as (N, length)."""
    width = ((0, 0), (0, length - tokens.shape[1]))
    filled: Inputs = np.pad(tokens, width, constant_values=padding)
    return filled
