"""Evaluate: a network's answers over the eval split, in manifest order, and how many are right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pipeline.context import Context
from stages.augment.loader import Loader
from stages.train.fff.inference import packed_answers
from stages.train.layout import ALONE, Layout
from stages.train.out_of_memory import Answering
from stages.train.precision import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Logits and labels on the CPU, sorted by position in the manifest."""

    logits: torch.Tensor  # (N, K) float32
    targets: torch.Tensor  # (N,) int64
    index: torch.Tensor  # (N,) int64

    @property
    def top1(self) -> float:
        """The share of samples answered correctly."""
        return float((self.logits.argmax(1) == self.targets).double().mean())

    @property
    def loss(self) -> float:
        """The mean cross-entropy."""
        return float(cross_entropy(self.logits.double(), self.targets))

    @property
    def is_finite(self) -> bool:
        """Whether no logit is NaN or infinite."""
        return bool(self.logits.isfinite().all())

    def save(self, path: Path) -> None:
        """Write ``logits`` and ``targets`` as npz."""
        np.savez(path, logits=self.logits.numpy(), targets=self.targets.numpy())


@torch.no_grad()
def evaluate(
    module: torch.nn.Module,
    loader: Loader,
    precision: Precision,
    ctx: Context,
    label: str = "eval",
    layout: Layout = ALONE,
) -> Evaluation:
    """Run a network over one epoch of an eval loader; every rank gets the answers of all.

    Raises:
        Interrupted: a stop was asked for; nothing of the training state was touched.
    """
    was_training, answering = module.training, Answering(module, ctx.device)
    module.eval()
    layout.settle(module)
    logits, targets, index = [], [], []
    try:
        with (
            packed_answers(module),
            ctx.events.progress(label, total=len(loader), unit="batch") as bar,
        ):
            for batch, counts in layout.in_step(loader, ctx.stop):
                with precision.autocast(ctx.device):
                    answer = answering(batch.inputs)
                if not counts:
                    continue
                logits.append(answer.float())
                targets.append(batch.targets)
                index.append(batch.index)
                bar.advance()
    finally:
        module.train(was_training)
    places = layout.gather(torch.cat(index))
    order = places.argsort()
    return Evaluation(
        logits=layout.gather(torch.cat(logits))[order],
        targets=layout.gather(torch.cat(targets))[order],
        index=places[order],
    )
