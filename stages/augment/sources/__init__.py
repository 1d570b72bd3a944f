"""Source: where labelled images come from, before they are split and written down in manifests.

Five sources, four ways of storage ("readers"):

    digits, folder  ->  folder       encoded files (also keywords, audio_folder)
    idx             ->  array        one .npy of uint8
    webdataset      ->  webdataset   encoded members of tar shards
    text, packages  ->  text         JSON Lines of texts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pipeline.context import Context

Part = Literal["train", "eval", "any"]
"""Where the data set itself puts a sample; `any` when it leaves the split to us."""


@dataclass(frozen=True, slots=True)
class Item:
    """One sample before it was looked at."""

    name: str
    """What a person calls it: the path below the root, the row of an array, the key in a shard."""
    label: int
    part: Part


@dataclass(frozen=True, slots=True)
class Finding:
    """What looking at one sample brought to light."""

    sha256: str = ""
    """Of the stored content; equal means a duplicate."""
    width: int = 0
    height: int = 0
    mode: str = ""
    """Pillow's word: ``L``, ``RGB``, ``RGBA``, ..."""
    kind: str = ""
    """Pillow's word for the file format: ``JPEG``, ``PNG``, ...; empty for arrays."""
    problem: str = ""
    """Why it cannot be used; empty when it can."""
    sample_rate: int = 0
    """Of a clip, in Hz; `mode` is then mono, stereo, ..."""
    seconds: float = 0.0
    """Of a clip: how long it lasts."""
    words: int = 0
    """Of a text, between spaces."""


class Source(Protocol):
    """A data set that lists its samples, looks at each, and writes manifests."""

    @property
    def name(self) -> str:
        """What the data set is called in reports."""
        ...

    @property
    def noun(self) -> str:
        """What a person calls one sample: image, clip, text."""
        ...

    @property
    def reader(self) -> Literal["folder", "array", "webdataset", "text"]:
        """How samples are stored, which is what a loader has to know."""
        ...

    @property
    def labelling(self) -> str:
        """What gives its samples their classes: said where there are too few."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in it."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """Every sample, in a fixed order."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know about how the data was read; warnings."""
        ...

    def inspect(self, ctx: Context) -> list[Finding]:
        """Look at every sample; one finding an item."""
        ...

    def write_manifest(self, split: str, chosen: Sequence[int], folder: Path) -> Path:
        """Write the manifest of a split that holds the chosen items, and return its path."""
        ...


@runtime_checkable
class Narrows(Protocol):
    """A source that can look at some of its samples without reading the others."""

    def narrowed(self, chosen: Sequence[int]) -> Source:
        """Return the source of the chosen items alone, with all classes."""
        ...
