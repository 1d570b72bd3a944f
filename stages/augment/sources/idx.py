"""Idx: the files of MNIST and its successors, parsed by hand and copied into ``.npy`` arrays.

    train-images-idx3-ubyte.gz   train-labels-idx1-ubyte.gz   t10k-images-...   t10k-labels-...

An idx file is two zero bytes, the element type, the number of axes, each axis as a big-endian
uint32, and the elements.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import DataError
from pipeline.files import write_atomic
from stages.augment.paths import missing
from stages.augment.sources import Finding, Item, Part

_UINT8 = 0x08
_MAX_BYTES = 1 << 34
_POLL_EVERY = 4096
_PREFIXES: tuple[tuple[Part, str], ...] = (("train", "train"), ("eval", "t10k"))


@dataclass(frozen=True, slots=True)
class IdxSource:
    """Images of one size in memory."""

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    images: NDArray[np.uint8]  # (N, H, W) or (N, H, W, C)
    notes: tuple[str, ...] = ()
    reader: Literal["array"] = "array"
    noun: str = "image"
    labelling: str = "The labels-idx1 file has to hold more than one label."

    def inspect(self, ctx: Context) -> list[Finding]:
        """Hash every image; an array has no damage that could be seen."""
        height, width, *channels = self.images.shape[1:]
        mode = "RGB" if channels == [3] else "L"
        findings: list[Finding] = []
        for index, image in enumerate(self.images):
            if index % _POLL_EVERY == 0:
                ctx.stop.check()
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            findings.append(Finding(sha256=digest, width=width, height=height, mode=mode))
        return findings

    def write_manifest(self, split: str, chosen: Sequence[int], folder: Path) -> Path:
        """Write the chosen images and labels as two arrays, and JSON that names them."""
        labels = np.array([self.items[index].label for index in chosen], dtype=np.int64)
        arrays: dict[str, NDArray[np.uint8] | NDArray[np.int64]] = {
            "images": self.images[list(chosen)], "labels": labels
        }  # fmt: skip
        names = {key: f"{split}_{key}.npy" for key in arrays}
        for key, array in arrays.items():
            partial = folder / f".{names[key]}.partial"
            with partial.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            os.replace(partial, folder / names[key])
        path = folder / f"{split}.json"
        write_atomic(path, json.dumps(names) + "\n")
        return path


def open_idx(folder: Path, classes: Sequence[str] = ()) -> IdxSource:
    """Read the train pair of idx files, and the t10k pair where it is there.

    Raises:
        DataError: a file is missing or is not what an idx file is.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    items: list[Item] = []
    for part, prefix in _PREFIXES:
        if part == "eval" and _find(folder, f"{prefix}-images-idx3-ubyte") is None:
            items = [Item(item.name, item.label, "any") for item in items]
            continue
        pictures, numbers = _read_pair(folder, prefix)
        if images and pictures.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"{folder}: {prefix} images have the shape {pictures.shape[1:]} and the train "
                f"images {images[0].shape[1:]}. Both parts must have the same."
            )
        images.append(pictures)
        labels += numbers
        items += [Item(f"{prefix}[{row}]", label, part) for row, label in enumerate(numbers)]
    names = tuple(classes) or tuple(str(label) for label in range(max(labels) + 1))
    if max(labels) >= len(names):
        raise DataError(
            f"{folder}: there is a label {max(labels)}, and dataset.classes names {len(names)} "
            f"classes. Name {max(labels) + 1}, or leave classes out."
        )
    return IdxSource(
        name=folder.name, classes=names, items=tuple(items), images=np.concatenate(images)
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Parse one idx file of uint8 elements, gzipped or not.

    Raises:
        DataError: the header, the type or the length is wrong.
    """
    open_file = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with open_file(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or not 1 <= head[3] <= 4:
                raise DataError(
                    f"{path}: not an idx file: it begins with {head.hex() or 'nothing'}."
                )
            if head[2] != _UINT8:
                raise DataError(
                    f"{path}: elements of type 0x{head[2]:02x}; allowed is 0x08, unsigned bytes."
                )
            shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            expected = math.prod(shape)
            if not 0 < expected <= _MAX_BYTES:
                raise DataError(
                    f"{path}: the header says shape {shape}, which is empty or too large."
                )
            body = file.read(expected)
            if len(body) != expected or file.read(1):
                found = f"{len(body):,}" if len(body) != expected else f"more than {expected:,}"
                raise DataError(
                    f"{path}: {found} bytes of data, and shape {shape} needs {expected:,}. "
                    "The file is damaged; fetch it again."
                )
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: cannot be read: {error}. Fetch the file again.") from error
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _read_pair(folder: Path, prefix: str) -> tuple[NDArray[np.uint8], list[int]]:
    paths = {
        name: _find(folder, f"{prefix}-{name}-ubyte") for name in ("images-idx3", "labels-idx1")
    }
    for name, path in paths.items():
        if path is None:
            why = missing(folder / f"{prefix}-{name}-ubyte.gz")
            raise DataError(f"{folder}: no {prefix}-{name}-ubyte or its .gz: {why}")
    images, labels = (read_idx(path) for path in paths.values() if path is not None)
    if (images.ndim == 4 and images.shape[3] not in (1, 3)) or images.ndim < 3:
        raise DataError(
            f"{paths['images-idx3']}: shape {images.shape}; allowed is (N, H, W), or (N, H, W, C) "
            "with 1 or 3 channels."
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"{paths['labels-idx1']}: labels of shape {labels.shape} for {len(images)} images. "
            "The two files do not belong together."
        )
    return images, [int(label) for label in labels]


def _find(folder: Path, name: str) -> Path | None:
    """Return the file of that name, gzipped or not; some copies write a dot before ``idx``."""
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = (folder / f"{spelling}{end}" for spelling in spellings for end in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)
