"""Measure: what every variant answers on the whole eval split, side by side on the same batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.errors import DataError
from stages.export.arrays import Images, Logits
from stages.export.backends import BatchProfile, Session
from stages.export.samples import eval_batches

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits (N, classes) and the right classes (N,), in manifest order."""

    logits: Logits
    targets: Labels

    @property
    def classes(self) -> Labels:
        """The class answered for each sample."""
        classes: Labels = self.logits.argmax(axis=1)
        return classes

    @property
    def top1(self) -> float:
        """Share of right answers; an answer that is not finite is wrong."""
        if not len(self.targets):
            return 0.0
        right = (self.classes == self.targets) & np.isfinite(self.logits).all(axis=1)
        return float(right.mean())

    @property
    def num_sick(self) -> int:
        """How many samples have NaN or Inf among their logits."""
        return int((~np.isfinite(self.logits).all(axis=1)).sum())

    def agreement(self, other: Predictions) -> float:
        """Return the share of samples on which both answer the same class."""
        same = (self.classes == other.classes) & np.isfinite(self.logits).all(axis=1)
        return float(same.mean()) if len(same) else 0.0


def load_predictions(path: Path) -> Predictions:
    """Read what an earlier stage predicted.

    Raises:
        DataError: the file is missing, damaged or lacks an array.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Predictions(
                arrays["logits"].astype(np.float32), arrays["targets"].astype(np.int64)
            )
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise DataError(
            f"export: the predictions {path} cannot be read: {error}. Run train again."
        ) from error


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Write predictions as npz with the arrays ``logits`` and ``targets``."""
    np.savez_compressed(path, logits=predictions.logits, targets=predictions.targets)


def predict(
    sessions: Mapping[str, Session], spec: DataSpec, profile: BatchProfile, ctx: Context
) -> dict[str, Predictions]:
    """Run every session over the whole eval split.

    Raises:
        DataError: the eval split is empty.
    """
    batch = max(profile.min, min(profile.max, spec.batch_size))
    answers: dict[str, list[Logits]] = {name: [] for name in sessions}
    targets: list[Labels] = []
    index: list[Labels] = []
    with ctx.events.progress("evaluate", total=spec.splits["eval"].samples, unit=spec.noun) as bar:
        for taken in eval_batches(spec, batch, ctx):
            for name, session in sessions.items():
                ctx.stop.check()
                answers[name].append(ask(session, taken.images, profile.min))
            targets.append(taken.targets)
            index.append(taken.index)
            bar.advance(len(taken.targets))
    if not targets:
        raise DataError(
            f"export: the eval split of '{spec.name}' is empty; accuracy cannot be measured. Give "
            "augment an eval split."
        )
    order = np.argsort(np.concatenate(index), kind="stable")
    right = np.concatenate(targets)[order]
    return {
        name: Predictions(np.concatenate(parts)[order], right) for name, parts in answers.items()
    }


def ask(session: Session, images: Images, least: int) -> Logits:
    """Return logits for a batch that may be smaller than an engine takes."""
    short = least - len(images)
    if short <= 0:
        return session(images)
    filled = np.concatenate([images, np.repeat(images[-1:], short, axis=0)])
    return session(filled)[: len(images)]


def same_samples(reference: Predictions, measured: Predictions) -> None:
    """Check that two sets of predictions are about the same samples.

    Raises:
        DataError: they are not, so that comparing them would mean nothing.
    """
    if not np.array_equal(reference.targets, measured.targets):
        raise DataError(
            f"export: the trained model was measured on {len(reference.targets)} eval samples and "
            f"the exported one on {len(measured.targets)}, or their labels differ. The data have "
            "changed since training; run train again."
        )
