"""State: whether the data set is there, and what would make a result stale; reads no image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import Problem, choices, nearest
from pipeline.files import sha256_file
from stages.augment.datasets import (
    AudioFolderDataset,
    Dataset,
    FolderDataset,
    IdxDataset,
    TextDataset,
    WebDataset,
)
from stages.augment.paths import expand_shards, missing, user_path
from stages.augment.text import packages
from stages.augment.text.features import TextFeatures
from stages.augment.text.rows import ENDINGS

_VENDORS = (
    "pillow", "numpy", "torch", "torchvision", "nvidia-dali-cuda130", "nvidia-dali-cuda120",
    "soundfile", "tokenizers",
)  # fmt: skip


def data_problems(dataset: Dataset) -> list[Problem]:
    """Return a problem for each path that is not there or cannot be read."""
    match dataset:
        case FolderDataset(folder=folder, eval=eval_folder):
            given = {"folder": folder, "eval": eval_folder}
            return [p for key, text in given.items() if text for p in _folder_problems(key, text)]
        case AudioFolderDataset(audio_folder=folder, eval=eval_folder):
            given = {"audio_folder": folder, "eval": eval_folder}
            return [p for key, text in given.items() if text for p in _folder_problems(key, text)]
        case IdxDataset(idx=folder):
            return _folder_problems("idx", folder)
        case WebDataset(webdataset=train, eval=held_out):
            return _shard_problems("webdataset", train) + _shard_problems("eval", held_out)
        case TextDataset(text=table, eval=held_out):
            given = {"text": table, "eval": held_out}
            return [p for key, text in given.items() if text for p in _table_problems(key, text)]
        case "packages" if why := packages.why_not():
            return [Problem(path="dataset", message=f"'packages': {why}.")]
    return []


def data_state(dataset: Dataset) -> str:
    """Return a digest of the data set's files: their names, sizes and times of change."""
    digest = hashlib.sha256()
    for name, path in _files(dataset):
        try:
            status = path.stat()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError as error:
            digest.update(f"{name} {error.errno}\n".encode())
    return digest.hexdigest()


def tokenizer_problems(features: TextFeatures | None) -> list[Problem]:
    """Return a problem when the tokenizer to load is not there."""
    if features is None or not features.is_loaded:
        return []
    path = user_path(features.tokenizer)
    if path.is_file():
        return []
    why = f"{path} is a folder." if path.exists() else missing(path)
    return [Problem(path="text.tokenizer", message=f"{features.tokenizer!r}: {why}")]


def tokenizer_state(features: TextFeatures | None) -> dict[str, str]:
    """Return the SHA-256 of the tokenizer to load; nothing when none is loaded."""
    if features is None or not features.is_loaded:
        return {}
    try:
        return {"tokenizer": sha256_file(user_path(features.tokenizer))}
    except OSError as error:
        return {"tokenizer": f"cannot be read: {error.errno}"}


def vendor_versions() -> dict[str, str]:
    """Return the versions of installed packages whose change may change pixels."""
    found: dict[str, str] = {}
    for name in _VENDORS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _files(dataset: Dataset) -> Iterator[tuple[str, Path]]:
    match dataset:
        case (
            FolderDataset(folder=folder, eval=eval_folder)
            | AudioFolderDataset(audio_folder=folder, eval=eval_folder)
        ):
            for text in (folder, eval_folder):
                yield from _walk(user_path(text)) if text else ()
        case IdxDataset(idx=folder):
            yield from ((path.name, path) for path in sorted(user_path(folder).glob("*ubyte*")))
        case WebDataset(webdataset=train, eval=held_out):
            for path in expand_shards(train) + expand_shards(held_out):
                yield str(path), path
        case TextDataset(text=table, eval=held_out):
            yield from ((text, user_path(text)) for text in (table, held_out) if text)
        case "packages":
            yield from ((path.name, path) for path in sorted(packages.LISTS.glob("*Packages*")))


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, subfolders, files in os.walk(root):
        subfolders.sort()
        for file in sorted(files):
            path = Path(folder, file)
            yield os.path.relpath(path, root), path


def _folder_problems(key: str, text: str) -> list[Problem]:
    def wrong(path: Path) -> str:
        return "" if path.is_dir() else f"{path} is a file, and a folder is expected."

    return _path_problems(key, text, wrong, os.R_OK | os.X_OK)


def _table_problems(key: str, text: str) -> list[Problem]:
    def wrong(path: Path) -> str:
        if not path.is_file():
            return f"{path} is a folder, and a table is expected, with one text a row."
        if path.suffix.lower() not in ENDINGS:
            return f"a table ends in {choices(ENDINGS)}.{nearest(path.suffix, ENDINGS)}"
        return ""

    return _path_problems(key, text, wrong, os.R_OK)


def _path_problems(key: str, text: str, wrong: Callable[[Path], str], access: int) -> list[Problem]:
    path = user_path(text)
    if not path.exists():
        why = missing(path)
    elif not (why := wrong(path)):
        if os.access(path, access):
            return []
        why = f"{path} cannot be read: no permission."
    return [Problem(path=f"dataset.{key}", message=f"{text!r}: {why}")]


def _shard_problems(key: str, pattern: str) -> list[Problem]:
    try:
        shards = expand_shards(pattern)
    except ValueError as error:
        return [Problem(path=f"dataset.{key}", message=str(error))]
    absent = [path for path in shards if not path.is_file()]
    if shards and not absent:
        return []
    why = missing(absent[0]) if absent else "no file matches."
    count = f" ({len(absent)} of {len(shards)} shards are missing)" if len(absent) > 1 else ""
    return [Problem(path=f"dataset.{key}", message=f"{pattern!r}: {why}{count}")]
