"""Media: what the files of a data set are: what they are called, end in, and how one is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stages.augment.sources import Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """One kind of files."""

    noun: str
    """What a person calls one: image, clip."""
    endings: tuple[str, ...]
    """Of file names, in small letters."""
    example: str
    """Two files as they lie in class folders, for messages."""
    check: Callable[[bytes], Finding]
    """Looks at the content of one file; never raises for what it may be."""
