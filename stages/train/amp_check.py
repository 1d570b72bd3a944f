"""AMP check: one batch in fp32 and in the chosen precision, before the first epoch."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from pipeline.device import Device
from pipeline.errors import StageFailed
from stages.train.models.classifier import Classifier
from stages.train.precision import Precision
from stages.train.reproducible import random_state_kept

WARN_ABOVE = 0.1
FAIL_ABOVE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AmpCheck:
    """How far the logits in the chosen precision are from those in fp32."""

    precision: str
    difference: float
    """Norm of the difference over the norm of the fp32 logits."""

    @property
    def is_suspicious(self) -> bool:
        """Whether a user should look into it."""
        return self.difference > WARN_ABOVE

    def __str__(self) -> str:
        return f"logits in {self.precision} differ from fp32 by {self.difference:.2%} (one batch)"


def check_amp(
    module: Classifier, images: torch.Tensor, precision: Precision, device: Device
) -> AmpCheck:
    """Compare one forward pass in training mode; the module and all random states stay as they are.

    Raises:
        StageFailed: the logits are not finite, or have nothing to do with those in fp32.
    """
    reference = _forward(module, images, None, device)
    if not torch.isfinite(reference).all():
        raise StageFailed(
            "train: the logits of the untrained model are not finite in fp32 either. Look at the "
            "mean and std that the augment stage reports, and at the model's own initialization."
        )
    answer = _forward(module, images, precision, device)
    norm = max(float(reference.norm()), 1e-12)
    difference = float((answer - reference).norm()) / norm
    check = AmpCheck(precision=precision.name, difference=difference)
    if not difference <= FAIL_ABOVE:  # NaN too
        raise StageFailed(
            f"train.precision: {check}. At most {FAIL_ABOVE:.0%} can be trained on. "
            "Use precision: fp32, or bf16 if this was fp16."
        )
    return check


@torch.no_grad()
def _forward(
    module: Classifier, images: torch.Tensor, precision: Precision | None, device: Device
) -> torch.Tensor:
    with random_state_kept():  # so that dropout draws the same in both passes
        double = copy.deepcopy(module).train()  # batch norm counts what it sees
        if precision is None:
            logits: torch.Tensor = double(images)
        else:
            with precision.autocast(device):
                logits = double(images)
        return logits.float()
