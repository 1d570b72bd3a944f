"""Canary: a few samples with known answers. The only honest sign that a server is ready and well.

A server may report READY and answer with status OK while its outputs are empty or its worker is
dead; so it is asked something whose answer is known, and the figures are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.augment.loader import Inputs

CANARY_FILE = "canary.npz"
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 1e-1}
"""How far a logit may be off, as a share of the largest, where batch size or machine are others.

A rounding of 1e-7 can tip a quantized value over to the next step: int8 needs more room than fp32.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """Samples and what the model must answer."""

    images: Inputs  # (N, H, W, C), or of texts the tokens (N, L)
    logits: NDArray[np.float32]  # (N, K)
    tolerance: float
    """Largest allowed difference of a logit."""

    def save(self, path: Path) -> None:
        """Write it as npz."""
        with path.open("wb") as file:
            np.savez(file, images=self.images, logits=self.logits, tolerance=self.tolerance)

    @staticmethod
    def load(path: Path) -> Canary:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return Canary(
                images=data["images"], logits=data["logits"], tolerance=float(data["tolerance"])
            )

    def fault(self, answer: NDArray[np.float32]) -> str | None:
        """Return what is wrong with an answer, or None when it is right."""
        if answer.shape != self.logits.shape:
            return f"its shape is {answer.shape} and must be {self.logits.shape}"
        worst = float(np.abs(answer - self.logits).max(initial=0.0))
        if not worst <= self.tolerance:  # NaN is a fault as well
            return f"a logit is off by {worst:.3g} and may be off by {self.tolerance:.3g}"
        return None


def tolerance_for(precision: str, logits: NDArray[np.float32]) -> float:
    """Return how far a logit may be off for a model of that precision."""
    return TOLERANCE[precision] * float(np.abs(logits).max(initial=1.0))
