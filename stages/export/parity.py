"""Parity: does a graph answer what the module it came from answers?

Figures are the largest absolute difference and the signal-to-quantization-noise ratio (SQNR) in
decibel: 20 dB less is ten times more noise. FP32 graphs reach 100 dB and more, FP16 about 65, INT8
25 to 40.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10

import numpy as np
import torch

from pipeline.errors import StageFailed
from stages.export.arrays import Answer, Images, Logits

PARITY_BATCHES = (1, 2, 5)
"""The trace is made at batch 2; other sizes show whether the batch axis is free."""

FP32_FLOOR_DB = 60.0
"""Least SQNR of an FP32 graph: one part in a thousand of amplitude, far above any rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How near two answers are."""

    batch: int
    max_abs: float
    sqnr_db: float


def sqnr_db(reference: Logits, got: Logits) -> float:
    """Return the signal-to-quantization-noise ratio in decibel; infinite when both are equal."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - got).sum())
    if not np.isfinite(noise):
        return -inf
    if noise == 0.0:
        return inf
    return 10 * log10(signal / noise) if signal > 0.0 else -inf


def torch_answer(module: torch.nn.Module) -> Answer:
    """Wrap a module so that it takes and gives numpy arrays."""

    def answer(images: Images) -> Logits:
        with torch.inference_mode():
            logits: Logits = module(torch.from_numpy(images)).numpy()
        return logits

    return answer


def compare(reference: Answer, graph: Answer, images: Images) -> tuple[Parity, ...]:
    """Ask both the same at several batch sizes.

    Args:
        reference: who is right.
        graph: who is compared.
        images: at least as many as the largest batch size.
    """
    figures: list[Parity] = []
    for batch in PARITY_BATCHES:
        right, got = reference(images[:batch]), graph(images[:batch])
        if right.shape != got.shape:
            raise StageFailed(
                f"export: the graph answers shape {got.shape} at batch {batch}, the module "
                f"{right.shape}; the batch axis was frozen. Let the model's forward() use no "
                "fixed batch size."
            )
        figures.append(
            Parity(
                batch=batch,
                max_abs=float(np.abs(right - got).max()),
                sqnr_db=sqnr_db(right, got),
            )
        )
    return tuple(figures)


def check(figures: Sequence[Parity], *, what: str, floor_db: float = FP32_FLOOR_DB) -> None:
    """Hold figures against the floor.

    Raises:
        StageFailed: a batch size is below it.
    """
    for parity in figures:
        if not parity.sqnr_db >= floor_db:
            raise StageFailed(
                f"export: {what} differs from PyTorch at batch {parity.batch}: SQNR "
                f"{parity.sqnr_db:.1f} dB, largest difference {parity.max_abs:.3g}; at least "
                f"{floor_db:.0f} dB is needed. An operator was converted wrongly; set simplify: "
                "false, try another opset, or report the model."
            )
