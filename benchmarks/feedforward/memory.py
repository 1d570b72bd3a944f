"""Memory: how long a core takes to read no more than what a batch of tokens needs from a tree.

No kernel is faster on a machine whose L2 cache does not hold the tree: a batch needs the weights on
its paths, its tokens and room for its outputs, and at best the cache holds the neurons that most
tokens visit. A real one reads rows at random, and not in a row as here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from stages.train.fff.packed import Layout

_L2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")


def l2_bytes() -> int:
    """Return the size of a core's L2 cache; 0: unknown."""
    try:
        return int(_L2.read_text().strip().removesuffix("K")) * 1024
    except (ValueError, OSError):  # not Linux
        return 0


def bytes_beyond(cache: int, batch: int, layout: Layout) -> float:
    """Return what a batch of random tokens needs at least from beyond a cache of so many bytes.

    Tokens reach the nodes of a level with equal probability, so the best that a cache can hold is
    the top of each tree.
    """
    kept = cache / (layout.record * layout.trees)
    needed = 0.0
    for level in range(layout.depth + 1):
        nodes = 2**level
        visited = nodes * (1 - (1 - 1 / nodes) ** batch)
        needed += visited * (1 - min(1.0, kept / nodes))
        kept = max(0.0, kept - nodes)
    of_token = 4 * (layout.in_features + layout.out_features)
    return layout.trees * needed * layout.record + batch * of_token


def open_reader(num_bytes: float, area: int) -> Callable[[torch.Tensor], object]:
    """Return what reads so many bytes in a row, whatever it is called with.

    Args:
        num_bytes: of a call; the next call goes on behind them.
        area: bytes that are read in turn: as many as the tree has, to lie in the same caches.
    """
    size = int(num_bytes / 8)  # of each half, in floats
    first, second = (torch.ones(max(size, area // 8)) for _ in range(2))
    at = 0

    def read(_: torch.Tensor) -> torch.Tensor:
        nonlocal at
        if at + size > len(first):
            at = 0
        part = slice(at, at + size)
        at += size
        return torch.dot(first[part], second[part])

    return read
