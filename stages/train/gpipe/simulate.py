"""Simulate: what a schedule would take, from seconds a stage and seconds a link.

    timeline = simulate("gpipe", Times(forward_s=(1, 1), backward_s=(2, 2)), micro_batches=8)
    timeline.bubble                   # equal stages, free links: (K-1) / (M+K-1) exactly

Driven by events: a stage starts its next work when it is free and what the work needs has arrived.
With fewer cores than stages at work, all of them go on at the same lower speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from stages.train.gpipe.orders import Kind, Schedule, Work, order
from stages.train.gpipe.timeline import Span, Timeline


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds for one micro-batch."""

    forward_s: Sequence[float]
    """By stage."""
    backward_s: Sequence[float]
    """By stage, recomputation included; without what comes later."""
    weights_s: Sequence[float] = ()
    """By stage: gradients of weights, where the schedule has them come later; empty: nothing."""
    link_s: Sequence[float] = ()
    """From stage k to k+1, and back; empty: nothing."""

    def of(self, kind: Kind, stage: int) -> float:
        """Return the seconds of one piece of work on a stage."""
        match kind:
            case "forward":
                return self.forward_s[stage]
            case "backward":
                return self.backward_s[stage]
            case "weights":
                return self.weights_s[stage] if self.weights_s else 0.0

    def link(self, stage: int, other: int) -> float:
        """Return the seconds from a stage to its neighbour."""
        return self.link_s[min(stage, other)] if self.link_s else 0.0


def simulate(
    schedule: Schedule, times: Times, micro_batches: int, *, cores: int | None = None
) -> Timeline:
    """Return the timeline of one step.

    Args:
        schedule: the order of work on each stage.
        times: what each piece of work takes on a device of its own.
        micro_batches: how many.
        cores: how many stages can really work at once; None: all of them.
    """
    stages = len(times.forward_s)
    state = _State(times, cores, [order(schedule, k, stages, micro_batches) for k in range(stages)])
    while not state.done:
        state.advance()
    return Timeline(stages=stages, micro_batches=micro_batches, spans=tuple(state.spans))


@dataclass
class _State:
    times: Times
    cores: int | None
    orders: list[tuple[Work, ...]]
    now: float = 0.0
    spans: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.position = [0] * len(self.orders)
        self.arrival: dict[tuple[int, Work], float] = {}  # when a work's input is on its stage
        self.left: dict[int, float] = {}  # stage at work -> seconds of work left
        self.began: dict[int, float] = {}

    @property
    def done(self) -> bool:
        return all(
            position == len(works)
            for position, works in zip(self.position, self.orders, strict=True)
        )

    def advance(self) -> None:
        """Go on to the next moment at which a work ends or can start."""
        arrives = self._start()
        speed = min(1.0, self.cores / len(self.left)) if self.cores and self.left else 1.0
        ends = self.now + min(self.left.values()) / speed if self.left else math.inf
        then = min(ends, arrives)
        assert then < math.inf, "the order of work waits in a circle"
        for stage in self.left:
            self.left[stage] -= (then - self.now) * speed
        self.now = then
        if then == ends:
            least = min(self.left.values())
            for stage in [k for k, left in self.left.items() if left <= least]:
                self._end(stage)

    def _start(self) -> float:
        """Start what can start; return when more arrives for a stage that waits."""
        arrives = math.inf
        for stage, works in enumerate(self.orders):
            if stage in self.left or self.position[stage] == len(works):
                continue
            work = works[self.position[stage]]
            at = self._ready_at(stage, work)
            if at <= self.now:
                self.left[stage] = self.times.of(work.kind, stage)
                self.began[stage] = self.now
            else:
                arrives = min(arrives, at)
        return arrives

    def _ready_at(self, stage: int, work: Work) -> float:
        first, last = stage == 0, stage == len(self.orders) - 1
        here = {"forward": first, "backward": last, "weights": True}
        if here[work.kind]:
            return 0.0  # its input is there, or was made by the stage itself
        return self.arrival.get((stage, work), math.inf)

    def _end(self, stage: int) -> None:
        work = self.orders[stage][self.position[stage]]
        self.spans.append(Span(stage, work, self.began.pop(stage), self.now))
        del self.left[stage]
        self.position[stage] += 1
        if work.kind == "weights":  # nobody waits for it
            return
        other = stage + 1 if work.kind == "forward" else stage - 1
        if 0 <= other < len(self.orders):
            self.arrival[other, work] = self.now + self.times.link(stage, other)
