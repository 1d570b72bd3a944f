"""Folder: one sub-folder a class, one file a sample; the commonest form of a labelled data set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.context import Context
from pipeline.errors import DataError
from pipeline.files import write_atomic
from stages.augment.media import Media
from stages.augment.scan import IMAGES, scan_files
from stages.augment.sources import Finding, Item, Part

ENDINGS = IMAGES.endings
EVAL_NAMES = ("eval", "val", "valid", "validation", "test")


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Images or clips in class folders below a root."""

    name: str
    root: Path
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    files: tuple[Path, ...]
    """One an item, absolute."""
    roots: tuple[Path, ...]
    """Links may not lead out of these."""
    notes: tuple[str, ...]
    media: Media = IMAGES
    reader: Literal["folder"] = "folder"

    @property
    def noun(self) -> str:
        """What a person calls one sample."""
        return self.media.noun

    @property
    def labelling(self) -> str:
        """What gives samples their classes."""
        return f"Put the {self.noun}s of each class into a folder of its own."

    def narrowed(self, chosen: Sequence[int]) -> FolderSource:
        """Return the source of the chosen files alone."""
        items, files = tuple(self.items[i] for i in chosen), tuple(self.files[i] for i in chosen)
        return replace(self, items=items, files=files)

    def inspect(self, ctx: Context) -> list[Finding]:
        """Read and decode every file; known ones come from the cache."""
        return scan_files(self.files, self.roots, ctx, self.media)

    def write_manifest(self, split: str, chosen: Sequence[int], folder: Path) -> Path:
        """Write JSON Lines of file and label; files inside `folder` are named relative to it."""
        lines = (
            json.dumps({"file": _spelled(self.files[i], folder), "label": self.items[i].label})
            for i in chosen
        )
        path = folder / f"{split}.jsonl"
        write_atomic(path, "".join(f"{line}\n" for line in lines))
        return path


def open_folder(
    root: Path, eval_root: Path | None = None, *, name: str = "", media: Media = IMAGES
) -> FolderSource:
    """List a data folder: ``root/class/*`` or ``root/train/class/*`` with ``root/val/class/*``.

    Raises:
        DataError: there is no such folder, or it is not laid out in class folders.
    """
    parts = _parts(root, eval_root)
    names = {part: _class_names(folder, media) for part, folder in parts.items()}
    classes = next(iter(names.values()))
    for part, found in names.items():
        unknown = sorted(set(found) - set(classes))
        if unknown:
            raise DataError(
                f"{parts[part]}: class folders {', '.join(unknown[:5])} are not among the training "
                f"classes ({', '.join(classes[:10])}). Every eval class must have training images."
            )
    items: list[Item] = []
    files: list[Path] = []
    ignored: list[str] = []
    for part, folder in parts.items():
        for label, class_name in enumerate(classes):
            for path in _walk(folder / class_name):
                if path.suffix.lower() not in media.endings and not path.is_dir():
                    ignored.append(str(path))
                    continue
                items.append(Item(os.path.relpath(path, root), label, part))
                files.append(path)
    if not files:
        raise DataError(
            f"{root}: no {media.noun} in it. {media.noun.capitalize()}s are files in class folders "
            f"that end in {', '.join(media.endings)}."
        )
    return FolderSource(
        name=name or root.name, root=root, classes=classes, items=tuple(items), files=tuple(files),
        roots=tuple(folder.resolve() for folder in (root, *parts.values())),
        notes=_notes(ignored, media), media=media,
    )  # fmt: skip


def _parts(root: Path, eval_root: Path | None) -> dict[Part, Path]:
    """Recognise how train and eval are laid out."""
    for folder in (root, eval_root):
        if folder is not None:
            _list(folder)
    train = root / "train"
    if eval_root is not None:
        return {"train": train if train.is_dir() else root, "eval": eval_root}
    if train.is_dir():
        for name in EVAL_NAMES:
            if (root / name).is_dir():
                return {"train": train, "eval": root / name}
        return {"any": train}
    return {"any": root}


def _class_names(folder: Path, media: Media) -> tuple[str, ...]:
    names = tuple(e.name for e in _list(folder) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise DataError(
            f"{folder}: no class folder in it. A data set is one sub-folder a class with "
            f"{media.noun}s, for instance {media.example}."
        )
    return names


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: the data folder cannot be read ({error.strerror}). "
            "Mend the path or its permissions."
        ) from error


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what is below a class folder in a fixed order; links to folders are not followed."""
    if not folder.exists():
        return
    for path in _list(folder):
        if path.name.startswith(".") or path.name == "Thumbs.db":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _spelled(file: Path, folder: Path) -> str:
    """Spell a file as a manifest in `folder` has to: what lies elsewhere is absolute."""
    file, folder = file.absolute(), folder.absolute()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def _notes(ignored: Sequence[str], media: Media) -> tuple[str, ...]:
    if not ignored:
        return ()
    return (
        f"{len(ignored)} file(s) in class folders do not end like {_a(media.noun)} and are left "
        f"out: {', '.join(ignored[:3])}.",
    )
