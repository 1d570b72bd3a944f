"""Objective: the training loss, with smoothed and mixed labels.

Shapes: N samples, K classes.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from stages.augment.loader import Mix


def objective(
    logits: torch.Tensor, targets: torch.Tensor, mix: Mix | None, smoothing: float
) -> torch.Tensor:
    """Return the mean cross-entropy; a mixed sample counts for both of its labels by their share.

    Cross-entropy is linear in the label: this is the loss on the blended label (mixup, eq. 1).
    """
    logits = logits.float()  # (N, K)
    if mix is None:
        return cross_entropy(logits, targets, label_smoothing=smoothing)
    own = cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)  # (N,)
    partner = targets[mix.partner]
    other = cross_entropy(logits, partner, reduction="none", label_smoothing=smoothing)
    return (mix.weight * own + (1 - mix.weight) * other).mean()
