"""Machine: what a measurement ran on, and how busy others kept it meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from benchmarks.clock import Stopwatch, machine_busy_s
from pipeline.environment import describe_hardware

MAX_THREADS = 8


def num_threads() -> int:
    """Return how many threads or workers every side gets."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))


def load() -> float:
    """Return the machine's load: processes that ran or wanted to, averaged over the last minute."""
    return os.getloadavg()[0]


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks at the machine from the start of a benchmark to its end."""

    load_before: float = field(default_factory=load)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    busy_at_start: float = field(default_factory=machine_busy_s)

    def others(self) -> float:
        """Return how many cores programs other than this benchmark kept busy, on average."""
        busy_s = machine_busy_s() - self.busy_at_start
        return max(0.0, busy_s - self.stopwatch.cpu_s) / max(self.stopwatch.wall_s, 1e-9)

    def lines(self) -> list[str]:
        """Return machine and load in words."""
        hardware = describe_hardware()
        return [
            f"machine: {hardware['cpu']}, {hardware['cores']} cores, "
            f"{hardware['memory_gb']:g} GB, {' '.join(hardware['features'])}",
            f"load: {self.load_before:.2f} before, {load():.2f} after; "
            f"others kept {self.others():.2f} cores busy meanwhile; "
            f"{self.stopwatch.wall_s:.0f} s in all",
        ]
