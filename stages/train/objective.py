"""Objective: the training loss, with smoothed and mixed labels.

Shapes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from stages.augment.loader import Mix


@dataclass(frozen=True, slots=True)
class Labels:
    """What samples should be recognized as; a mixed sample has the label of its partner too."""

    own: torch.Tensor  # (N,) int64
    partner: torch.Tensor | None = None  # (N,) int64
    weight: torch.Tensor | None = None  # (N,) float32 in 0..1, the share of the own label

    @classmethod
    def of(cls, targets: torch.Tensor, mix: Mix | None) -> Labels:
        """Look up the partners' labels, which needs the whole batch."""
        return cls(targets) if mix is None else cls(targets, targets[mix.partner], mix.weight)

    def split(self, sizes: Sequence[int]) -> Iterator[Labels]:
        """Yield the labels of the first samples, of the next, and so on."""
        sizes = list(sizes)
        if self.partner is None or self.weight is None:
            yield from map(Labels, torch.split(self.own, sizes))
        else:
            columns = (self.own, self.partner, self.weight)
            yield from map(Labels, *(torch.split(column, sizes) for column in columns))

    def loss(self, logits: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Return the mean cross-entropy; a mixed sample counts for both of its labels.

        Cross-entropy is linear in the label: this is the loss on the blended label (mixup, eq. 1).
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (N, K)
        if self.partner is None or self.weight is None:
            return cross_entropy(logits, self.own, label_smoothing=smoothing)
        own = cross_entropy(logits, self.own, reduction="none", label_smoothing=smoothing)  # (N,)
        other = cross_entropy(logits, self.partner, reduction="none", label_smoothing=smoothing)
        return (self.weight * own + (1 - self.weight) * other).mean()


def objective(
    logits: torch.Tensor, targets: torch.Tensor, mix: Mix | None, smoothing: float
) -> torch.Tensor:
    """Return the mean cross-entropy of a whole batch; mixed samples count for both labels."""
    return Labels.of(targets, mix).loss(logits, smoothing)
