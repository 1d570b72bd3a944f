"""Shards: WebDataset tars, in which ``key.jpg`` and ``key.cls`` make a sample; never unpacked."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.context import Context
from pipeline.errors import DataError
from pipeline.files import write_atomic
from stages.augment.scan import MAX_FILE_BYTES, bombs_are_errors, check_image, stamp_of
from stages.augment.scan_cache import ScanCache
from stages.augment.sources import Finding, Item, Part
from stages.augment.sources.folder import ENDINGS

_MAX_LABEL_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Member:
    """One sample of a shard as the scan saw it."""

    key: str
    label: str
    """What its ``.cls`` member says."""
    finding: Finding


@dataclass(frozen=True, slots=True)
class ShardSource:
    """Samples in tar shards."""

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    findings: tuple[Finding, ...]
    keys: tuple[str, ...]
    """One an item; unique."""
    shards: tuple[Path, ...]
    """One an item: the tar it lies in."""
    spellings: tuple[str, ...]
    """What ``.cls`` members say for label 0, 1, ..."""
    notes: tuple[str, ...] = ()
    reader: Literal["webdataset"] = "webdataset"
    noun: str = "image"
    labelling: str = "The .cls members have to name more than one class."

    def inspect(self, ctx: Context) -> list[Finding]:
        """Return what was found when the shards were listed."""
        return list(self.findings)

    def write_manifest(self, split: str, chosen: Sequence[int], folder: Path) -> Path:
        """Name the shards and what to leave out of them; a small part of them is copied instead."""
        shards = sorted({self.shards[index] for index in chosen})
        kept = set(chosen)
        within = [index for index, shard in enumerate(self.shards) if shard in set(shards)]
        excluded = [self.keys[index] for index in within if index not in kept]
        names = [str(shard) for shard in shards]
        if split == "calibration":
            names, excluded = [f"{split}.tar"], []
            self._copy(chosen, folder / f"{split}.tar")
        manifest = {
            "shards": names, "samples": len(chosen), "classes": self.spellings, "excluded": excluded
        }  # fmt: skip
        path = folder / f"{split}.json"
        write_atomic(path, json.dumps(manifest) + "\n")
        return path

    def _copy(self, chosen: Sequence[int], path: Path) -> None:
        """Write the chosen samples into a shard of their own, in manifest order."""
        partial = path.with_name(f".{path.name}.partial")
        with tarfile.open(partial, "w") as copy:
            for shard in dict.fromkeys(self.shards[index] for index in chosen):
                wanted = {self.keys[index] for index in chosen if self.shards[index] == shard}
                with tarfile.open(shard, "r:") as tar:
                    for member in tar:
                        if member.isreg() and split_name(member.name)[0] in wanted:
                            copy.addfile(_plain(member), tar.extractfile(member))
        os.replace(partial, path)


def open_shards(
    shards: Mapping[Part, Sequence[Path]], classes: Sequence[str], ctx: Context, *, name: str
) -> ShardSource:
    """List and check every sample of every shard; known shards come from the cache.

    Raises:
        DataError: there is no shard, a key stands there twice, or labels do not fit the classes.
    """
    paths = [(part, path) for part, group in shards.items() for path in group]
    absent = [path for _, path in paths if not path.is_file()]
    if absent or not paths:
        raise DataError(
            f"{absent[0] if absent else name}: no such shard. Mend dataset.webdataset or eval."
        )
    scanned = _scan([path for _, path in paths], ctx)
    spellings = _spellings(scanned.values(), classes)
    items: list[Item] = []
    samples: list[tuple[str, Path, Finding]] = []
    first: dict[str, Path] = {}
    for part, path in paths:
        for member in scanned[path]:
            if first.setdefault(member.key, path) != path:
                raise DataError(
                    f"{path}: the key {member.key!r} stands in {first[member.key]} too. Keys must "
                    "be unique over all shards; write the shards with other keys."
                )
            label = spellings.index(member.label) if member.label in spellings else -1
            items.append(Item(f"{path.name}: {member.key}", label, part))
            samples.append((member.key, path, member.finding))
    return ShardSource(
        name=name, classes=tuple(classes) or spellings, items=tuple(items),
        findings=tuple(finding for _, _, finding in samples),
        keys=tuple(key for key, _, _ in samples),
        shards=tuple(path for _, path, _ in samples), spellings=spellings,
    )  # fmt: skip


def read_shard(path: Path) -> list[Member]:
    """Read one tar from end to end without unpacking it; a damaged tar is one damaged sample."""
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, ending = split_name(member.name)
                if ending not in ENDINGS and ending != ".cls":
                    continue
                sample = samples.setdefault(key, _Sample())
                sample.problem = sample.problem or _member_problem(member, ending, sample)
                file = None if sample.problem else tar.extractfile(member)
                if file is None:
                    continue
                if ending == ".cls":
                    sample.label = file.read().decode("utf-8", "replace").strip()
                else:
                    sample.image = check_image(file.read())
    except (OSError, tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        return [Member(f"({path.name})", "", Finding(problem=f"is a damaged tar file: {error}"))]
    return [Member(key, sample.label, sample.finding()) for key, sample in samples.items()]


def split_name(name: str) -> tuple[str, str]:
    """Return key and ending of a member: split at the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", f".{ending.lower()}"


@dataclass(slots=True)
class _Sample:
    """What has been seen of a sample so far."""

    label: str = ""
    problem: str = ""
    image: Finding | None = None
    endings: set[str] = field(default_factory=set)

    def finding(self) -> Finding:
        if self.problem:
            return Finding(problem=self.problem)
        if self.image is None:
            return Finding(problem="has a label and no image")
        if not self.label and not self.image.problem:
            return Finding(problem="has no label: its .cls member is missing or empty")
        return self.image


def _member_problem(member: tarfile.TarInfo, ending: str, sample: _Sample) -> str:
    limit = _MAX_LABEL_BYTES if ending == ".cls" else MAX_FILE_BYTES
    kind = "label" if ending == ".cls" else "image"
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        return f"has the name {member.name!r}, which leads out of the archive"
    if not member.isreg():
        return f"has a member {member.name!r} that is no regular file"
    if member.size > limit:
        return (
            f"has a member {member.name!r} of {member.size:,} bytes; at most {limit:,} are allowed"
        )
    if kind in sample.endings:
        return f"has more than one {kind}"
    sample.endings.add(kind)
    return ""


_MEMBERS = list[Member]


def _scan(paths: Sequence[Path], ctx: Context) -> dict[Path, list[Member]]:
    cache = ScanCache.load("\n".join(map(str, paths)), _MEMBERS)
    stamps = {path: stamp_of(path) for path in paths}
    known = {path: cache.get(str(path), stamps[path]) for path in paths}
    scanned = {path: members for path, members in known.items() if members is not None}
    fresh = [path for path in paths if path not in scanned]
    if not fresh:
        return scanned
    threads = min(8, os.cpu_count() or 1)
    try:
        with (
            bombs_are_errors(),
            ctx.events.progress("scan", total=len(paths), unit="shard") as bar,
            ThreadPoolExecutor(threads) as pool,
        ):
            bar.advance(len(scanned))
            for start in range(0, len(fresh), threads):
                ctx.stop.check()
                chunk = fresh[start : start + threads]
                for path, members in zip(chunk, pool.map(read_shard, chunk), strict=True):
                    scanned[path] = members
                    cache.put(str(path), stamps[path], members)
                bar.advance(len(chunk))
    finally:
        warning = cache.save()
        if warning:
            ctx.events.info(warning)
    return scanned


def _spellings(shards: Iterable[Sequence[Member]], classes: Sequence[str]) -> tuple[str, ...]:
    """Return what ``.cls`` members say, by label: numbers and words in order."""
    said = {member.label for members in shards for member in members if member.label}
    if not said:
        raise DataError(
            "the shards hold no label. A sample is an image and a .cls member of the same name."
        )
    numeric = all(word.isascii() and word.isdecimal() for word in said)
    if not classes:
        return tuple(sorted(said, key=int if numeric else None))
    allowed = tuple(str(number) for number in range(len(classes))) if numeric else tuple(classes)
    unknown = sorted(said - set(allowed))
    if unknown:
        raise DataError(
            f"the shards hold the label {unknown[0]!r}, and dataset.classes names {len(classes)}: "
            f"{', '.join(classes[:10])}. Name them all, or leave classes out."
        )
    return allowed


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member with nothing but name and size: a copy must not depend on who made it."""
    plain = tarfile.TarInfo(member.name)
    plain.size = member.size
    return plain
