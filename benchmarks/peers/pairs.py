"""Pairs: metered batches as other frameworks' loops take them, and a loss that adds itself up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy

from benchmarks.metered import Metered


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images and targets."""

    metered: Metered

    def __len__(self) -> int:
        return len(self.metered)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self.metered:
            yield batch.inputs, batch.targets


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
