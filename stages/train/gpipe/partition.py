"""Partition: where to cut a chain so that its dearest stage is as cheap as can be. Exact.

    partition([3, 1, 1, 1, 2], stages=2)    # (0, 2, 5): stages of cost 4 and 4

N blocks, K stages; bounds are block numbers, from 0 over the K-1 cuts to N, so no stage is empty.
Dynamic programming over (stages so far, blocks so far), O(K N^2): among the partitions with the
least dearest stage it takes the most even one (least sum of squares).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from pipeline.errors import ConfigError, nearest

Bounds = tuple[int, ...]
Fits = Callable[[int, int, int], bool]
"""fits(stage, start, stop): whether the blocks start..stop-1 fit the memory of that stage."""

_SLACK = 1 + 1e-12
"""Sums of floats in another order differ in their last bits."""


def partition(
    costs: Sequence[float],
    stages: int,
    *,
    links: Sequence[float] = (),
    fits: Fits | None = None,
) -> Bounds | None:
    """Return the best bounds, or None if no partition fits.

    Args:
        costs: of each block.
        stages: how many stages, at most as many as blocks.
        links: of a cut after block i (N-1 of them), borne by both its sides; empty: free.
        fits: a constraint on each stage; None: everything fits.
    """
    assert 1 <= stages <= len(costs)
    sums = [0.0, *accumulate(costs)]
    borders = [0.0, *(links or [0.0] * (len(costs) - 1)), 0.0]

    def cost(start: int, stop: int) -> float:
        return borders[start] + sums[stop] - sums[start] + borders[stop]

    found = _best(len(costs), stages, cost, fits, max)
    if found is None:
        return None
    limit = _SLACK * max(cost(start, stop) for start, stop in pairwise(found))

    def fits_evenly(stage: int, start: int, stop: int) -> bool:
        within = cost(start, stop) <= limit
        return within and (fits is None or fits(stage, start, stop))

    return _best(len(costs), stages, lambda start, stop: cost(start, stop) ** 2, fits_evenly, _add)


def cut_at(names: Sequence[str], cuts: Sequence[str]) -> Bounds:
    """Return the bounds of stages that begin at the named blocks.

    Raises:
        ConfigError: a name is no block, is the first one, comes twice or out of order.
    """
    bounds = [0]
    for cut in cuts:
        if cut not in names:
            raise ConfigError(
                f"stages.train.parallel.cuts: '{cut}' is no block that a stage can begin at. "
                f"Allowed: {', '.join(names[1:])}.{nearest(cut, names[1:])}"
            )
        position = names.index(cut)
        if position <= bounds[-1]:
            raise ConfigError(
                f"stages.train.parallel.cuts: '{cut}' is block {position} and would begin a stage "
                f"after one that begins at block {bounds[-1]} ('{names[bounds[-1]]}'). Each name "
                "must come later in the network than the one before. Reorder or remove it."
            )
        bounds.append(position)
    return (*bounds, len(names))


def _add(one: float, other: float) -> float:
    return one + other


def _best(
    blocks: int,
    stages: int,
    cost: Callable[[int, int], float],
    fits: Fits | None,
    join: Callable[[float, float], float],
) -> Bounds | None:
    """Return the bounds whose joined cost is least; `join` must not fall when an argument rises."""
    least = [0.0] + [math.inf] * blocks  # of the first n blocks on the stages so far
    sources: list[list[int]] = []
    for stage in range(stages):
        row, source = [math.inf] * (blocks + 1), [0] * (blocks + 1)
        for stop in range(stage + 1, blocks - (stages - stage - 1) + 1):
            for start in range(stage, stop):
                if least[start] == math.inf:
                    continue
                total = join(least[start], cost(start, stop))
                if total < row[stop] and (fits is None or fits(stage, start, stop)):
                    row[stop], source[stop] = total, start
        least = row
        sources.append(source)
    if least[blocks] == math.inf:
        return None
    bounds = [blocks]
    for source in reversed(sources):
        bounds.append(source[bounds[-1]])
    return tuple(reversed(bounds))
