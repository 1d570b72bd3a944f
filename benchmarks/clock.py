"""Clock: wall time, and CPU time of this process with everything that it has started."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_AFTER_NAME = 2
"""Number (in proc(5), counted from 0) of the field that follows a process's name."""
_PARENT, _FIRST_TIME, _LAST_TIME = 3, 13, 16
_SETTLE_POLL_S = 0.05
_SETTLE_LIMIT_S = 3.0
_IDLE_SHARE = 0.1


def cpu_seconds() -> float:
    """Return the CPU time used so far by this process and by its children, living and ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + _descendants_s(os.getpid())


def machine_busy_s() -> float:
    """Return the CPU time that all processes of the machine have used since it started."""
    with Path("/proc/stat").open(encoding="ascii") as lines:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, lines.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def settle() -> None:
    """Wait until what was started in the background has come to rest, for a few seconds at most."""
    deadline = time.monotonic() + _SETTLE_LIMIT_S
    before = cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(_SETTLE_POLL_S)
        now = cpu_seconds()
        if now - before < _IDLE_SHARE * _SETTLE_POLL_S:
            return
        before = now


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Runs from the moment it is made."""

    started: float = field(default_factory=time.perf_counter)
    cpu_at_start: float = field(default_factory=cpu_seconds)

    @property
    def wall_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def cpu_s(self) -> float:
        """CPU seconds since the start, of this process and its children."""
        return cpu_seconds() - self.cpu_at_start


def _descendants_s(root: int) -> float:
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text(encoding="utf-8", errors="replace").rpartition(") ")
        except OSError:  # it has just ended
            continue
        fields = rest.split()
        process = int(path.parent.name)
        parents[process] = int(fields[_PARENT - _AFTER_NAME])
        first, last = _FIRST_TIME - _AFTER_NAME, _LAST_TIME - _AFTER_NAME
        ticks[process] = sum(map(int, fields[first : last + 1]))
    found, generation = 0, {root}
    while generation:
        generation = {process for process, parent in parents.items() if parent in generation}
        found += sum(ticks[process] for process in generation)
    return found / _TICKS_PER_S
