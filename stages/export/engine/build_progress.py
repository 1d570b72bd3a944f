"""BuildProgress: TensorRT's nested phases folded into one percentage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass
class BuildProgress:
    """Follows phases and says so whenever the whole has moved on by a percent.

    A phase counts for one step of its parent, so the share done is the parent's finished steps plus
    the finished share of the step that it works on.
    """

    tell: Callable[[int, str], None]
    """Called with the percentage and the name of the phase."""
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _told: int = -1

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Enter a phase."""
        self._phases[name] = _Phase(parent if parent in self._phases else None, max(steps, 1))
        self._tell(name)

    def step(self, name: str, index: int) -> None:
        """Finish step `index` of a phase."""
        if name in self._phases:
            phase = self._phases[name]
            phase.done = min(index + 1, phase.steps)
            self._tell(name)

    def finish(self, name: str) -> None:
        """Leave a phase."""
        self._phases.pop(name, None)

    def share(self, name: str) -> float:
        """Return the share of the whole that is done, as seen from a phase; 0 to 1."""
        phase = self._phases[name]
        share = phase.done / phase.steps
        for _ in self._phases:  # as many ancestors as there can be; names may come back in a circle
            if phase.parent is None or phase.parent not in self._phases:
                break
            phase = self._phases[phase.parent]
            share = min((phase.done + share) / phase.steps, 1.0)
        return share

    def _tell(self, name: str) -> None:
        percent = int(100 * self.share(name))
        # Phases overlap and repeat; a bar that goes back would only worry people.
        if percent > self._told:
            self._told = percent
            self.tell(percent, name)


def open_monitor(trt: ModuleType, progress: BuildProgress) -> object:
    """Return the `IProgressMonitor` that feeds `progress`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.step(phase_name, step)
            return True

    return Monitor()
