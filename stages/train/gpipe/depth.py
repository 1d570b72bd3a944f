"""Depth: how often the unit of a family can repeat before so many devices are full.

    Depths(family, limit, batch=64).most(stages=8, micro_batches=16, recompute="always")

Deep networks have tens of thousands of blocks, and no device has room for a list of what could
begin where. None is needed: whole units can leave the middle of a stage and it still fits, so of
all stages that begin at one place of a unit and end at another only the longest counts, and the
deepest network is a longest path over those places. Where a stage ends is found by doubling, since
what a stretch takes follows from what its halves take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, partial
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from stages.train.gpipe.budget import BlockBudget, Tally, add_up
from stages.train.gpipe.family import Family
from stages.train.gpipe.memory import Recompute
from stages.train.gpipe.orders import Schedule, defers_weights, most_alive

_DOUBLINGS = 20
_DEEPEST = 1 << _DOUBLINGS
"""Repeats, where blocks cost nothing."""

_Ends: TypeAlias = dict[int, int]
"""Where a stage can end, and how many units it has finished by then, at most."""


class _Wait(NamedTuple):
    """What waits on a stage."""

    alive: int
    """Micro-batches, at most."""
    defers: bool
    """Whether the gradients of weights come later."""


class Depths:
    """The most repeats of one family on devices of one size.

    Args:
        family: the network as what repeats in it.
        limit: bytes of a device.
        batch: samples of a mini-batch.
        schedule: of micro-batches.
    """

    def __init__(
        self, family: Family, limit: float, *, batch: int, schedule: Schedule = "gpipe"
    ) -> None:
        self._batch = batch
        self._schedule = schedule
        self._stages_of = cache(partial(_Stages, family, limit))

    def most(self, *, stages: int, micro_batches: int, recompute: Recompute) -> int | None:
        """Return how many repeats fit, or None if not even one does."""
        kind = self._stages_of(-(-self._batch // micro_batches), recompute)
        found = 0
        units: _Ends = {0: 0}
        for stage in range(stages):
            alive = most_alive(self._schedule, stage, stages, micro_batches) if stages > 1 else 1
            defers = defers_weights(self._schedule, stage)
            units = _furthest(
                (stop, before + more)
                for start, before in units.items()
                for stop, more in kind.ends(_Wait(alive, defers), start).items()
            )
            found = max(found, units.get(kind.end, 0))
        return min(found, _DEEPEST) or None


class _Stages:
    """The longest stages of micro-batches of one size, from any place to any other.

    Places are counted in the network whose unit is there once. The end of the unit is its
    beginning: another may follow, or what comes after.
    """

    def __init__(self, family: Family, limit: float, size: int, recompute: Recompute) -> None:
        self._limit, self._size, self._recompute = limit, size, recompute
        self._blocks = family.budget(1).blocks
        self._unit, self._after = len(family.before), len(family.before) + len(family.unit)
        self.end = len(self._blocks) if family.after else self._unit
        self._doubled = [self._tally(family.unit)]
        for _ in range(_DOUBLINGS):
            self._doubled.append(self._doubled[-1].then(self._doubled[-1]))
        self.ends = cache(self._ends)

    def _ends(self, wait: _Wait, start: int) -> _Ends:
        """Return how far a stage gets that begins at a place on which so much waits."""
        return _furthest(self._stops(wait, start))

    def _stops(self, wait: _Wait, start: int) -> Iterator[tuple[int, int]]:
        if start >= self._after:
            yield from self._without_units(wait, start, len(self._blocks))
            return
        yield from self._without_units(wait, start, self._after - 1)
        if start == self._unit:  # no unit follows
            yield from self._without_units(wait, self._after, len(self._blocks))
        head = self._tally(self._blocks[start : self._after])
        for first, last in ((self._unit, self._after - 1), (self._after, len(self._blocks))):
            more = _DEEPEST
            for stop, tail in enumerate(self._stretches(first, last), first):
                if not self._fits(head.then(tail), wait):
                    break
                more = self._more(head, tail, wait, more)
                yield (self._unit if stop == self._after else stop), 1 + more

    def _without_units(self, wait: _Wait, start: int, last: int) -> Iterator[tuple[int, int]]:
        for stop, tally in enumerate(self._stretches(start, last), start):
            if stop > start and not self._fits(tally, wait):
                return
            if stop > start:
                yield stop, 0

    def _more(self, head: Tally, tail: Tally, wait: _Wait, most: int) -> int:
        """Return how many units fit between a head and a tail that fit, at most `most`."""
        units = 0
        for power in range(most.bit_length() - 1, -1, -1):
            longer = head.then(self._doubled[power])
            if self._fits(longer.then(tail), wait):
                head, units = longer, units + (1 << power)
        return units

    def _stretches(self, first: int, last: int) -> Iterator[Tally]:
        """Yield what the blocks from the first take: none of them, one, and so on."""
        ones = (Tally.of(block, self._size) for block in self._blocks[first:last])
        return accumulate(ones, Tally.then, initial=Tally())

    def _tally(self, blocks: Iterable[BlockBudget]) -> Tally:
        return add_up(blocks, self._size)

    def _fits(self, tally: Tally, wait: _Wait) -> bool:
        return tally.total(self._recompute, *wait) <= self._limit


def _furthest(ends: Iterable[tuple[int, int]]) -> _Ends:
    found: _Ends = {}
    for stop, units in ends:
        found[stop] = max(units, found.get(stop, 0))
    return found
