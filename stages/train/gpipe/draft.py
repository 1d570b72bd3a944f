"""Draft: one way to lay a step over K stages and M micro-batches, timed and not yet chosen.

The numbers of memory are of the budget (added up from blocks); the planner measures what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product

from stages.train.gpipe.budget import Budget, measure_budget
from stages.train.gpipe.company import alone
from stages.train.gpipe.memory import MemoryMeter, Recompute
from stages.train.gpipe.orders import Schedule, defers_weights, most_alive
from stages.train.gpipe.partition import Bounds, Fits, partition
from stages.train.gpipe.profile import Profile
from stages.train.gpipe.simulate import Times, simulate
from stages.train.gpipe.timeline import Timeline
from stages.train.gpipe.weights import ParameterBytes
from stages.train.parallel_config import ParallelConfig

MOST_MICRO_BATCHES = 512
"""Tried by ``auto``; smaller pieces only wait for each other."""
_MOST_SHIFTED = 1024
"""Stages times micro-batches; simulating more for every shift of a cut takes minutes."""
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What it takes to hand a micro-batch to the next stage."""

    latency_s: float = 50e-6
    bytes_per_s: float = 4e9
    """About that of a copy through shared memory."""

    def seconds(self, num_bytes: float) -> float:
        """Return the seconds for so many bytes."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Draft:
    """A partition with a number of micro-batches, and the step simulated."""

    bounds: Bounds
    micro_batches: int
    timeline: Timeline

    @property
    def stages(self) -> int:
        """How many."""
        return len(self.bounds) - 1

    @property
    def step_s(self) -> float:
        """Predicted seconds of a step."""
        return self.timeline.makespan_s


@dataclass(frozen=True, slots=True)
class Least:
    """The least memory that some number of stages can do with."""

    bytes: float
    micro_batches: int


@dataclass(kw_only=True)
class Drafts:
    """All drafts of one chain."""

    config: ParallelConfig
    meter: MemoryMeter
    profile: Profile
    batch: int
    weights: ParameterBytes
    link: Link
    cores: int | None
    cuts: Bounds | None
    crowding: Callable[[int], float] = alone
    """How many times as long blocks take where so many stages are at work."""
    _of: dict[int, list[Draft]] = field(default_factory=dict)

    @cached_property
    def budget(self) -> Budget:
        """Memory by block; measured when something asks for it."""
        return measure_budget(self.meter, self.weights)

    def changed(self, **settings: str) -> Drafts:
        """Return the drafts of the same chain with another `recompute` or `schedule`."""
        assert self.budget  # so that it is measured once for both
        other = copy(self)
        other.config = self.config.model_copy(update=settings)
        other._of = {}
        return other

    @property
    def schedule(self) -> Schedule:
        """The order that is simulated; those of two stages a rank as 1F1B, which is no faster."""
        return self.config.own_schedule

    @property
    def shifts_cuts(self) -> bool:
        """Whether the simulated step decides on cuts, and not the dearest stage."""
        return self.config.defers_weights and self.config.balance == "time" and not self.cuts

    def of(self, stages: int) -> list[Draft]:
        """Return every draft of so many stages that fits, the fastest first."""
        if stages not in self._of:
            drafts = [
                draft
                for micro_batches in self._micro_batches(stages)
                if (draft := self._draft(stages, micro_batches)) is not None
            ]
            self._of[stages] = sorted(drafts, key=lambda draft: draft.step_s)
        return self._of[stages]

    def size(self, micro_batches: int) -> int:
        """Return the samples of the largest micro-batch."""
        return -(-self.batch // micro_batches)

    def alive(self, stages: int, micro_batches: int) -> list[int]:
        """Return how many micro-batches are alive on each stage at most."""
        if stages == 1:  # nobody to wait for: each goes back as soon as it can
            return [1]
        return [most_alive(self.schedule, k, stages, micro_batches) for k in range(stages)]

    def times(self, draft: Draft) -> Times:
        """Return the seconds of one micro-batch on each stage and between them."""
        return self._times(draft.bounds, draft.micro_batches)

    def least(self, stages: int, recompute: Recompute) -> Least:
        """Return the least memory of a device that so many stages fit, over all micro-batches."""
        found = [
            Least(self._least_bytes(stages, m, recompute), m)
            for m in self._micro_batches(stages, by_memory=True)
        ]
        return min(found, key=lambda one: one.bytes)

    def _micro_batches(self, stages: int, *, by_memory: bool = False) -> list[int]:
        asked = self.config.micro_batches
        if isinstance(asked, int):
            return [asked] if asked >= stages else []
        if stages == 1 and self.config.memory is None and not by_memory:
            return [1]
        rising = {m for start in (1, stages) for m in powers(self.batch, start)}
        return sorted(m for m in rising if stages <= m <= MOST_MICRO_BATCHES)

    def _draft(self, stages: int, micro_batches: int) -> Draft | None:
        bounds = self.cuts or self._partition(stages, micro_batches)
        if bounds is None:
            return None
        draft = self._simulated(bounds, micro_batches)
        return self._shifted(draft) if self.shifts_cuts else draft

    def _simulated(self, bounds: Bounds, micro_batches: int) -> Draft:
        times = self._times(bounds, micro_batches)
        timeline = simulate(self.schedule, times, micro_batches, cores=self.cores)
        return Draft(bounds, micro_batches, timeline)

    def _shifted(self, draft: Draft) -> Draft:
        """Shift cuts by single blocks as long as that makes the simulated step shorter.

        Where nobody waits but for a first input, the last stage is through last although it is no
        dearer than the others; so it should have less to do than they.
        """
        if draft.stages * draft.micro_batches > _MOST_SHIFTED:
            return draft
        fits = self._fits_memory(draft.stages, draft.micro_batches)
        for cut, by in product(range(1, draft.stages), (-1, 1)):
            bounds = tuple(at + by * (k == cut) for k, at in enumerate(draft.bounds))
            stages = list(enumerate(pairwise(bounds)))
            if any(start >= stop for _, (start, stop) in stages):
                continue
            if fits is not None and not all(fits(k, start, stop) for k, (start, stop) in stages):
                continue
            other = self._simulated(bounds, draft.micro_batches)
            if other.step_s < draft.step_s:
                return self._shifted(other)
        return draft

    def _partition(self, stages: int, micro_batches: int) -> Bounds | None:
        links = [2 * seconds for seconds in self._links(micro_batches)]
        by_time = self.config.balance == "time"
        costs, fits = self._costs(micro_batches), self._fits_memory(stages, micro_batches)
        return partition(costs, stages, links=links if by_time else (), fits=fits)

    def _costs(self, micro_batches: int) -> Sequence[float]:
        match self.config.balance:
            case "time":
                forward, backward = self._seconds(micro_batches)
                return [f + b for f, b in zip(forward, backward, strict=True)]
            case "parameters":
                return [float(block.parameters) for block in self.budget.blocks]
            case "memory":
                size = self.size(micro_batches)
                waits = micro_batches if self.config.recompute_mode == "never" else 1
                return [b.weights + waits * b.kept.at(size) for b in self.budget.blocks]

    def _seconds(self, micro_batches: int) -> tuple[Sequence[float], Sequence[float]]:
        """Return forward and backward seconds of each block, recomputation in the latter."""
        size = self.batch / micro_batches
        forward, backward = self.profile.forward_s(size), self.profile.backward_s(size)
        # By blocks: once more without a graph for what enters each block, and once with it.
        again = {"never": 0.0, "except_last": 1 - 1 / micro_batches, "always": 1.0, "blocks": 2.0}
        share = again[self.config.recompute_mode]
        return forward, [b + share * f for f, b in zip(forward, backward, strict=True)]

    def _links(self, micro_batches: int) -> list[float]:
        each = self.meter.link_bytes(2)
        size = self.batch / micro_batches
        return [self.link.seconds(num_bytes * size / 2) for num_bytes in each]

    def _times(self, bounds: Bounds, micro_batches: int) -> Times:
        forward, backward = self._seconds(micro_batches)
        links, longer = self._links(micro_batches), self.crowding(len(bounds) - 1)
        weights = [0.0] * len(forward)
        if self.config.defers_weights:  # but for those of the first stage
            later = self.profile.weights_s(self.batch / micro_batches)
            weights[bounds[1] :] = later[bounds[1] :]

        def stages(seconds: Sequence[float]) -> list[float]:
            return [longer * sum(seconds[a:b]) for a, b in pairwise(bounds)]

        return Times(
            forward_s=stages(forward),
            backward_s=stages([b - w for b, w in zip(backward, weights, strict=True)]),
            weights_s=stages(weights),
            link_s=[links[cut - 1] for cut in bounds[1:-1]],
        )

    def _fits_memory(self, stages: int, micro_batches: int) -> Fits | None:
        """Return whether a stage fits the memory that is set; None: none is."""
        if self.config.memory is None:
            return None
        recompute, limit = self.config.recompute_mode, float(self.config.memory)
        size, alive = self.size(micro_batches), self.alive(stages, micro_batches)
        known: dict[tuple[int, bool, int, int], bool] = {}

        def fits(stage: int, start: int, stop: int) -> bool:
            waiting, defers = alive[stage], defers_weights(self.schedule, stage)
            key = waiting, defers, start, stop
            if key not in known:
                tally = self.budget.tally(start, stop, size)
                known[key] = tally.total(recompute, waiting, defers) <= limit
            return known[key]

        return fits

    def _least_bytes(self, stages: int, micro_batches: int, recompute: Recompute) -> float:
        """Search the least limit under which the chain can be cut into so many stages."""
        budget, size = self.budget, self.size(micro_batches)
        alive = self.alive(stages, micro_batches)
        whole = budget.tally(0, len(budget), size)
        low, high = 0.0, max(whole.total(recompute, max(alive), defers) for defers in (False, True))
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            if budget.fits(middle, size, recompute, alive, self.schedule):
                high = middle
            else:
                low = middle
        return high


def powers(limit: int, start: int = 1) -> list[int]:
    """Return `start`, twice that, and so on up to `limit`."""
    found = []
    while start <= limit:
        found.append(start)
        start *= 2
    return found


def gib(num_bytes: float, *, up: bool = False) -> str:
    """Return bytes as text; `up` rounds so that the text is enough."""
    unit, name = next(one for one in _UNITS if num_bytes >= one[0] or one[0] == 1)
    value = num_bytes / unit
    return f"{-(-value * 100 // 1) / 100 if up else value:.2f} {name}"
