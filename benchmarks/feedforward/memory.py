"""Memory: how long a core takes to read no more than what a batch of tokens needs from a tree.

That is the limit of any kernel on a machine whose L2 cache does not hold the tree: a batch needs
the weights on its paths, its tokens and room for its outputs, and at best the cache holds the
neurons that most tokens visit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from stages.train.fff.packed import Layout

_L2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_AREA = 64 * 2**20
"""Bytes that are read in turn, twice: more than a core's share of any cache."""


def l2_bytes() -> int:
    """Return the size of a core's L2 cache; 0: unknown."""
    try:
        return int(_L2.read_text().strip().removesuffix("K")) * 1024
    except (ValueError, OSError):  # not Linux
        return 0


def bytes_beyond(cache: int, batch: int, layout: Layout) -> float:
    """Return what a batch of random tokens needs at least from beyond a cache of so many bytes.

    Tokens reach the nodes of a level with equal probability, so the best that a cache can hold is
    the top of the tree.
    """
    kept = cache / layout.record
    needed = 0.0
    for level in range(layout.depth + 1):
        nodes = 2**level
        visited = nodes * (1 - (1 - 1 / nodes) ** batch)
        needed += visited * (1 - min(1.0, kept / nodes))
        kept = max(0.0, kept - nodes)
    of_token = 4 * (layout.in_features + layout.out_features)
    return layout.trees * needed * layout.record + batch * of_token


def open_reader(num_bytes: float) -> Callable[[torch.Tensor], object]:
    """Return what reads so many bytes that no cache holds, whatever it is called with."""
    first, second = torch.ones(_AREA // 4), torch.ones(_AREA // 4)
    size = int(num_bytes / 8)  # of each half, in floats
    at = 0

    def read(_: torch.Tensor) -> torch.Tensor:
        nonlocal at
        if at + size > len(first):
            at = 0
        part = slice(at, at + size)
        at += size
        return torch.dot(first[part], second[part])

    return read
