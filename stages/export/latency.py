"""Latency: how fast each variant is; they take turns, so that noise weighs on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.context import Context
from stages.export.arrays import Images
from stages.export.backends import BatchProfile, Session
from stages.export.config import LatencyConfig
from stages.export.samples import at_least

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long a variant takes."""

    p50_ms: float
    """Median of one call at the smallest batch."""
    p99_ms: float
    images_per_s: float
    """At the opt batch, from the median call."""


def measure_latency(
    sessions: Mapping[str, Session],
    images: Images,
    profile: BatchProfile,
    config: LatencyConfig,
    ctx: Context,
) -> dict[str, Latency]:
    """Time every session at the smallest and at the opt batch, in turns."""
    batches = [at_least(images, profile.min), at_least(images, profile.opt)]
    times: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in sessions}
    turn_s = config.seconds / config.rounds
    names = list(sessions)
    with ctx.events.progress("time", total=config.rounds, unit="round") as bar:
        for turn in range(config.rounds):
            # Another one goes first each time: the first after a pause finds a colder machine.
            first = turn % max(1, len(names))
            for name in names[first:] + names[:first]:
                ctx.stop.check()
                for batch, taken in zip(batches, times[name], strict=True):
                    taken.extend(time_calls(sessions[name], batch, turn_s))
            bar.advance(1)
    return {name: _summary(taken, profile.opt) for name, taken in times.items()}


def time_calls(call: Callable[[T], object], batch: T, seconds: float) -> list[float]:
    """Call for `seconds`, at least once, after an uncounted call that wakes threads and caches."""
    call(batch)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call(batch)
        times.append(time.perf_counter() - start)
    return times


def _summary(times: Sequence[Sequence[float]], opt: int) -> Latency:
    single, many = times
    return Latency(
        p50_ms=float(np.percentile(single, 50)) * 1e3,
        p99_ms=float(np.percentile(single, 99)) * 1e3,
        images_per_s=opt / float(np.median(many)),
    )
