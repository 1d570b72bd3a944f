"""Ours: the loaders that `stages.augment.loader` opens, over a hand-written `DataSpec`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.nn import Identity

from benchmarks.loaders import CROP_SCALE, MEAN, SIZE, STD, Batches
from benchmarks.photos import CLASSES, Photo
from pipeline.artifacts import DataSpec, Split
from stages.augment.loader import Loader, open_loader
from stages.augment.spec import TransformSpec
from stages.train.models.classifier import ImageClassifier

_LISTED = 4
"""How often an epoch lists each photo."""


def photo_spec(
    folder: Path, photos: Sequence[Photo], batch_size: int, *, crop: bool = True
) -> DataSpec:
    """Describe photos as the augment stage would: random resized crop, or resize, and flip."""
    lines = [
        json.dumps({"file": str(photo.path.relative_to(folder)), "label": photo.label})
        for photo in photos
    ]
    manifest = folder / "photos.jsonl"
    manifest.write_text("\n".join(lines * _LISTED) + "\n", encoding="utf-8")
    split = Split(manifest=manifest, samples=len(lines) * _LISTED)
    return _spec(folder, "folder", split, (SIZE, SIZE, 3), batch_size, crop=crop)


def array_spec(folder: Path, images: NDArray[np.uint8], batch_size: int) -> DataSpec:
    """Describe images that are held as one array (N, H, W, C)."""
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(len(images)) % CLASSES)
    manifest = folder / "arrays.json"
    manifest.write_text(json.dumps({"images": "images.npy", "labels": "labels.npy"}))
    split = Split(manifest=manifest, samples=len(images))
    height, width, channels = images.shape[1:]
    return _spec(folder, "array", split, (height, width, channels), batch_size)


def normalized(batches: Batches, channels: int) -> Batches:
    """Send batches through the first layer of our models: normalized float32 (N, C, H, W)."""
    return map(ImageClassifier(Identity(), MEAN[:channels], STD[:channels]).normalize, batches)


@contextmanager
def open_ours(spec: DataSpec, backend: str) -> Iterator[Batches]:
    """Open the train split with one of our backends; uint8 comes out."""
    with closing(open_loader(spec, "train", backend=backend)) as loader:
        yield _endless(loader)


def _endless(loader: Loader) -> Batches:
    while True:
        for batch in loader:
            yield batch.inputs


def _spec(
    folder: Path,
    reader: str,
    split: Split,
    shape: tuple[int, int, int],
    batch_size: int,
    *,
    crop: bool = True,
) -> DataSpec:
    transforms = folder / f"{reader}_transforms.json"
    first = {"random_resized_crop": {"scale": list(CROP_SCALE)}} if crop else "resize"
    TransformSpec.model_validate({"train": [first, "flip"], "eval": ["resize"]}).save(transforms)
    height, width, channels = shape
    return DataSpec(
        kind="image",
        name=reader,
        backend="torchvision",
        reader=reader,
        transforms=transforms,
        splits={"train": split, "eval": split, "calibration": split},
        classes=tuple(f"class_{label}" for label in range(CLASSES)),
        height=height,
        width=width,
        channels=channels,
        mean=MEAN[:channels],
        std=STD[:channels],
        batch_size=batch_size,
        digest="generated",
    )
