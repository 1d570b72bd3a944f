"""ShardReader: samples in WebDataset tar files, read in any order without unpacking them."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from stages.augment.sources.folder import ENDINGS
from stages.augment.sources.shards import split_name

_LABEL_ENDING = ".cls"


@dataclass(slots=True)
class _Entry:
    """Where the image of a sample lies, and what its label says."""

    shard: int
    offset: int = -1
    size: int = 0
    label: str = ""


class ShardReader:
    """Images and their labels from tar shards, listed once when the reader opens."""

    def __init__(self, manifest: Path) -> None:
        described = json.loads(manifest.read_text(encoding="utf-8"))
        self._shards = [manifest.parent / shard for shard in described["shards"]]
        excluded = frozenset(described["excluded"])
        entries: dict[str, _Entry] = {}
        for number, shard in enumerate(self._shards):
            _list_shard(number, shard, excluded, entries)
        classes = {spelling: label for label, spelling in enumerate(described["classes"])}
        self._names = list(entries)
        self._entries = list(entries.values())
        labels = [classes[entry.label] for entry in self._entries]
        self.labels = np.array(labels, dtype=np.int64)
        if len(labels) != described["samples"]:
            raise DataError(
                f"{manifest}: the shards hold {len(labels)} samples, and {described['samples']} "
                "are stated. They have changed since; run the augment stage again."
            )
        self._files = _OpenFiles(self._shards)

    def name(self, position: int) -> str:
        """Return shard and key of a sample."""
        return f"{self._shards[self._entries[position].shard]}: {self._names[position]}"

    def read(self, position: int) -> bytes:
        """Return a sample's encoded bytes."""
        entry = self._entries[position]
        return os.pread(self._files.descriptor(entry.shard), entry.size, entry.offset)


@dataclass(slots=True)
class _OpenFiles:
    """Shards that stay open for reading, until nobody holds this any more."""

    paths: list[Path]
    descriptors: dict[int, int] = field(default_factory=dict)

    def descriptor(self, shard: int) -> int:
        if shard not in self.descriptors:
            self.descriptors[shard] = os.open(self.paths[shard], os.O_RDONLY)
        return self.descriptors[shard]

    def __del__(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)


def _list_shard(
    number: int, shard: Path, excluded: frozenset[str], entries: dict[str, _Entry]
) -> None:
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            key, ending = split_name(member.name)
            if key in excluded or not member.isreg():
                continue
            if ending in ENDINGS:
                entry = entries.setdefault(key, _Entry(number))
                entry.offset, entry.size = member.offset_data, member.size
            elif ending == _LABEL_ENDING and (file := tar.extractfile(member)) is not None:
                entry = entries.setdefault(key, _Entry(number))
                entry.label = file.read().decode("utf-8", "replace").strip()
