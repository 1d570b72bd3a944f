"""Gradients: how the gradient of one mini-batch is computed. What is done with it is the learner's.

    gradients.backward(batch, scaler, step)    # fills .grad of every parameter

Whole batches here; micro-batches, pipelines and data parallelism offer the same two methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.device import Device
from stages.augment.loader import Batch
from stages.train.fff.penalties import collected_penalties
from stages.train.objective import objective
from stages.train.precision import Precision

Forward = Callable[[torch.Tensor], torch.Tensor]


class Gradients(Protocol):
    """Computes the gradient of one mini-batch, wherever the layers are."""

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, step: int) -> torch.Tensor:
        """Add the gradient of the scaled mean loss to every parameter's ``grad``.

        Args:
            batch: the whole mini-batch (of this rank).
            scaler: scales the loss before the backward pass; the gradients stay scaled.
            step: the optimizer step, which random streams may be keyed by.

        Returns:
            The mean loss of the batch, unscaled and detached; neither waits for the device.
        """
        ...

    def close(self) -> None:
        """Stop processes and free what they held."""
        ...


@dataclass(frozen=True, slots=True)
class WholeBatch:
    """One forward and one backward pass over the whole mini-batch, on one device."""

    forward: Forward
    precision: Precision
    device: Device
    label_smoothing: float

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, step: int) -> torch.Tensor:
        """Add the gradient of the scaled mean loss to every parameter's ``grad``."""
        with self.precision.autocast(self.device), collected_penalties() as penalties:
            logits = self.forward(batch.inputs)
            loss = objective(logits, batch.targets, batch.mix, self.label_smoothing)
        loss = penalties.added_to(loss)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def close(self) -> None:
        """Free nothing: the network is the learner's."""
