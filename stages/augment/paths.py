"""Paths: how a user may spell where data is, and what to say when it is not there."""

from __future__ import annotations

import re
from glob import glob, has_magic
from itertools import product
from pathlib import Path

from pipeline.errors import nearest

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_SHARDS = 100_000


def user_path(text: str) -> Path:
    """Return a path as a user writes it: ``~`` and relative to the working folder."""
    return Path(text).expanduser().absolute()


def expand_shards(pattern: str) -> list[Path]:
    """Return the files that ``a-{000..009}.tar``, ``{a,b}.tar``, ``a-*.tar`` or one path names.

    Names from braces are returned whether or not the files exist; a ``*`` returns what is there.

    Raises:
        ValueError: the pattern names too many files.
    """
    pieces = _BRACES.split(pattern)
    options = [[piece] if i % 2 == 0 else _options(piece) for i, piece in enumerate(pieces)]
    count = 1
    for option in options:
        count *= len(option)
    if count > MAX_SHARDS:
        raise ValueError(f"{pattern!r} names {count:,} files; at most {MAX_SHARDS:,} are allowed")
    paths: list[Path] = []
    for name in map("".join, product(*options)):
        path = user_path(name)
        paths += [Path(p) for p in sorted(glob(str(path)))] if has_magic(name) else [path]
    return paths


def _options(piece: str) -> list[str]:
    match = _RANGE.fullmatch(piece)
    if match is None:
        return piece.split(",")
    first, last = match.groups()
    if int(last) - int(first) >= MAX_SHARDS:
        raise ValueError(f"{{{piece}}} names too many files; at most {MAX_SHARDS:,} are allowed")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def missing(path: Path) -> str:
    """Say of a path that is not there how far it is, and what the nearest existing name is."""
    parent = path
    while not parent.exists() and parent != parent.parent:
        path, parent = parent, parent.parent
    if not parent.is_dir():
        return f"{parent} is not a folder."
    try:
        names = sorted(entry.name for entry in parent.iterdir())
    except OSError as error:
        return f"{parent} cannot be read ({error.strerror})."
    hint = nearest(path.name, names)
    inside = (
        f" It holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}." if names else ""
    )
    return f"{parent} has no '{path.name}'.{hint or inside}"
