"""Naming: a block is called as the place of the network where it begins, spelled as in its state.

layer1.0          the block holds this module, and begins with it
blocks.3.norm2    the second half of blocks.3
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from stages.train.gpipe.split.cuts import Cut
from stages.train.gpipe.split.flow import Step
from stages.train.gpipe.split.trace import ROOT

Path = tuple[str, ...]


def names(steps: Sequence[Step], cuts: Sequence[Cut]) -> list[str]:
    """Return the name of each block, relative to the network; no two are the same."""
    owners = [_owners(steps[a.before : b.before]) for a, b in pairwise(cuts)]
    first: dict[Path, int] = {}
    last: dict[Path, int] = {}
    for i, paths in enumerate(owners):
        for path in paths:
            for ancestor in _ancestors(path):
                first.setdefault(ancestor, i)
                last[ancestor] = i
    found: list[str] = []
    for i, paths in enumerate(owners):
        name = _name(i, paths, first, last)
        repeats = sum(other.partition("~")[0] == name for other in found)
        found.append(f"{name}~{repeats + 1}" if repeats else name)
    return found


def _name(i: int, paths: Sequence[Path], first: dict[Path, int], last: dict[Path, int]) -> str:
    if not paths:
        return "input"
    common = _common(paths)
    if common and first[common] == i:
        return ".".join(common)
    for path in paths:
        for ancestor in _ancestors(path):
            if first[ancestor] == last[ancestor] == i:
                return ".".join(ancestor)
    return ".".join(paths[0])


def _owners(steps: Sequence[Step]) -> list[Path]:
    """Return the modules whose parameters the steps use; the network's own ones by name."""
    tensors = [name.removeprefix(f"{ROOT}.").split(".") for step in steps for name, _ in step.state]
    return [tuple(path[:-1] or path) for path in tensors]


def _ancestors(path: Path) -> list[Path]:
    return [path[: i + 1] for i in range(len(path))]


def _common(paths: Sequence[Path]) -> Path:
    shortest, longest = min(paths), max(paths)
    same = 0
    for a, b in zip(shortest, longest, strict=False):
        if a != b:
            break
        same += 1
    return shortest[:same]
