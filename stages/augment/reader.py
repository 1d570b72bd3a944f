"""Reader: the samples of one split, as its manifest lists them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import DataSpec
from pipeline.errors import DataError, choices
from stages.augment.shard_reader import ShardReader


class FileReader(Protocol):
    """Samples that are encoded images."""

    labels: NDArray[np.int64]

    def name(self, position: int) -> str:
        """Return where a sample lies, for messages."""
        ...

    def read(self, position: int) -> bytes:
        """Return a sample's encoded bytes."""
        ...


class FolderReader:
    """Image files, one a line of a JSON Lines manifest."""

    def __init__(self, manifest: Path) -> None:
        entries, self.labels = _entries(manifest)
        self._paths = [str(manifest.parent / entry["file"]) for entry in entries]

    def name(self, position: int) -> str:
        """Return the file's path."""
        return self._paths[position]

    def read(self, position: int) -> bytes:
        """Return the file's content."""
        with open(self._paths[position], "rb") as file:
            return file.read()


class BytesReader:
    """Images that a caller holds as bytes; they have no labels."""

    def __init__(self, encoded: Sequence[bytes]) -> None:
        self._encoded = encoded
        self.labels = np.zeros(len(encoded), dtype=np.int64)

    def name(self, position: int) -> str:
        """Return the image's number."""
        return f"image {position}"

    def read(self, position: int) -> bytes:
        """Return the image's bytes."""
        return self._encoded[position]


class ArrayReader:
    """Images that lie decoded in one numpy file, mapped into memory."""

    def __init__(self, manifest: Path) -> None:
        entry = json.loads(manifest.read_text(encoding="utf-8"))
        images = np.load(manifest.parent / entry["images"], mmap_mode="r", allow_pickle=False)
        self.labels = np.load(manifest.parent / entry["labels"], allow_pickle=False).astype(
            np.int64
        )
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(self.labels):
            raise DataError(
                f"{manifest}: images {images.dtype} {images.shape} with {len(self.labels)} labels. "
                "Allowed: uint8 (N, H, W) or (N, H, W, C) and N labels. Write the arrays again."
            )
        self.images = images if images.ndim == 4 else images[..., None]  # (N, H, W, C)

    def name(self, position: int) -> str:
        """Return the sample's number."""
        return f"image {position}"


class TextReader:
    """Texts in memory, each of one part or two."""

    def __init__(self, texts: Sequence[tuple[str, ...]], labels: NDArray[np.int64]) -> None:
        self.texts = list(texts)
        self.labels = labels

    @classmethod
    def read(cls, manifest: Path) -> TextReader:
        """Read texts, one a line of a JSON Lines manifest."""
        entries, labels = _entries(manifest)
        return cls([tuple(entry["text"]) for entry in entries], labels)

    def name(self, position: int) -> str:
        """Return the text's number."""
        return f"text {position}"


def _entries(manifest: Path) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Return the lines of a JSON Lines manifest, and their labels."""
    with manifest.open(encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines if line.strip()]
    return entries, np.array([entry["label"] for entry in entries], dtype=np.int64)


AnyReader = FileReader | ArrayReader | TextReader


def open_reader(spec: DataSpec, split: str) -> AnyReader:
    """Open the samples of one split.

    Raises:
        DataError: the manifest is missing, empty, or not of the form that `spec.reader` names.
    """
    readers: dict[str, Callable[[Path], AnyReader]] = {
        "folder": FolderReader,
        "array": ArrayReader,
        "webdataset": ShardReader,
        "text": TextReader.read,
    }
    if split not in spec.splits:
        raise DataError(
            f"{spec.name}: there is no split {split!r}. Allowed: {choices(spec.splits)}."
        )
    if spec.reader not in readers:
        raise DataError(f"{spec.name}: {spec.reader!r} is no reader. Allowed: {choices(readers)}.")
    manifest = spec.splits[split].manifest
    try:
        reader = readers[spec.reader](manifest)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, tarfile.TarError) as error:
        raise DataError(
            f"{manifest}: the {spec.reader} manifest of split {split!r} cannot be read: {error!r}. "
            "Run the augment stage again."
        ) from error
    if len(reader.labels) == 0:
        raise DataError(f"{manifest}: split {split!r} lists no sample. Check the data set.")
    return reader
