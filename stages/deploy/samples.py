"""Samples: what is sent through a server of the eval split, with the answers expected offline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import DataSpec, Variant
from pipeline.errors import DataError
from pipeline.interrupt import StopFlag
from stages.augment.loader import Inputs, open_loader, read_texts
from stages.deploy.offline import OnnxModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Images or texts, labels, and the logits that the exported variant gave without a server."""

    rows: NDArray[np.int64]  # (N,) positions among the samples of the split
    images: Inputs  # (N, H, W, C), or of texts the tokens (N, L)
    targets: NDArray[np.int64]  # (N,)
    logits: NDArray[np.float32]  # (N, K)

    def __len__(self) -> int:
        return len(self.rows)

    def slices(self, size: int) -> Iterator[Samples]:
        """Yield consecutive parts of at most `size` samples."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Samples(
                rows=self.rows[part],
                images=self.images[part],
                targets=self.targets[part],
                logits=self.logits[part],
            )


def spread(total: int, wanted: Literal["all"] | int) -> NDArray[np.int64]:
    """Return positions spread evenly over `total`: a sorted split gives samples of every class."""
    if wanted == "all" or wanted >= total:
        return np.arange(total)
    return np.linspace(0, total - 1, wanted).round().astype(np.int64)


def read_samples(
    spec: DataSpec, variant: Variant, wanted: Literal["all"] | int, stop: StopFlag
) -> Iterator[Samples]:
    """Yield the wanted eval samples batch by batch: the split may be larger than memory.

    The expected logits are those that the export stage saved; where it saved none (the model of
    a rehearsal), the exported graph is run here.

    Raises:
        DataError: the saved predictions belong to other samples.
    """
    saved = load_predictions(variant)
    model = OnnxModel(variant.path) if saved is None and variant.format == "onnx" else None
    chosen = spread(spec.splits["eval"].samples, wanted)
    loader = open_loader(spec, "eval", batch_size=min(spec.batch_size, 64))
    seen = 0
    try:
        for batch in loader:
            stop.check()
            rows = np.arange(seen, seen + len(batch.targets))
            seen += len(rows)
            keep = np.isin(rows, chosen)
            if not keep.any():
                continue
            images = batch.inputs.cpu().numpy()[keep]
            targets = batch.targets.cpu().numpy()[keep]
            if saved is not None:
                logits = saved.rows(rows[keep], targets)
            elif model is not None:
                logits = model(images)
            else:
                raise DataError(
                    f"{variant.name}: no predictions were saved and a {variant.format} cannot be "
                    "run here, so there is nothing to compare with. Serve an ONNX variant."
                )
            yield Samples(rows=rows[keep], images=images, targets=targets, logits=logits)
    finally:
        loader.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What a variant answered when the export stage measured it, in manifest order."""

    path: Path
    logits: NDArray[np.float32]
    targets: NDArray[np.int64]

    def rows(self, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits of some samples.

        Raises:
            DataError: the labels differ: these predictions are of another split or order.
        """
        if rows.max(initial=-1) >= len(self.targets) or (self.targets[rows] != targets).any():
            raise DataError(
                f"{self.path}: the labels differ from those of the eval split; these predictions "
                "belong to other samples. Run the export stage again."
            )
        return self.logits[rows]


def load_predictions(variant: Variant) -> Predictions | None:
    """Return the saved predictions of a variant, if it has any."""
    if variant.predictions is None:
        return None
    with np.load(variant.predictions, allow_pickle=False) as data:
        return Predictions(path=variant.predictions, logits=data["logits"], targets=data["targets"])


@dataclass(frozen=True, slots=True)
class EncodedFiles:
    """The image files of the eval split, in manifest order."""

    paths: tuple[Path, ...]

    def __getitem__(self, row: int) -> bytes:
        return self.paths[row].read_bytes()


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of the eval split, in manifest order."""

    texts: Sequence[tuple[str, ...]]

    def __getitem__(self, row: int) -> tuple[str, ...]:
        return self.texts[row]


Text = tuple[str, ...]
Original = bytes | Text
"""A sample as a client has it, before any preprocessing: a file, or the parts of a text."""
Originals = EncodedFiles | Texts


def originals(spec: DataSpec) -> Originals | None:
    """Return the files or texts behind the eval split, or None where it is not made of them."""
    if spec.reader == "text":
        return Texts(read_texts(spec, "eval"))
    if spec.reader != "folder":
        return None
    manifest = spec.splits["eval"].manifest
    with manifest.open(encoding="utf-8") as lines:
        files = [json.loads(line)["file"] for line in lines if line.strip()]
    return EncodedFiles(tuple(manifest.parent / file for file in files))
