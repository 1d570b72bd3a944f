"""Metered: batches that note when the first was asked for and when they were over.

A peer's `fit` sets up and takes down much around its loop. That is left out here, in its favour:
only what lies between the first and the last batch counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import torch
from torch.nn.functional import cross_entropy

from benchmarks.clock import Stopwatch
from benchmarks.measure import Turn
from stages.augment.loader import Batch


@dataclass
class Metered:
    """Pairs of images and targets, as a peer's loop takes them."""

    batches: Sequence[Batch]
    steps: int = 1
    turn: Turn = field(default_factory=lambda: Turn(0, 0, 0))
    _watch: Stopwatch = field(default_factory=Stopwatch)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self._watch = Stopwatch()
        for batch in islice(cycle(self.batches), self.steps):
            yield batch.images, batch.targets
        self.finish()

    def finish(self) -> None:
        """Stop the clock; for loops that count their batches and never ask for one too many."""
        self.turn = Turn(self.steps, self._watch.wall_s, self._watch.cpu_s)


@dataclass
class SummedLoss:
    """Cross-entropy that adds up its values, without waiting for them."""

    total: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean over a batch."""
        loss = cross_entropy(logits.float(), targets)
        self.total += loss.detach()
        return loss

    def take(self) -> float:
        """Return the sum and begin anew."""
        total = float(self.total)
        self.total.zero_()
        return total
