"""Timeline: when each stage worked on what, measured or simulated; the bubble is what is left."""

from __future__ import annotations

from dataclasses import dataclass

from stages.train.gpipe.orders import Work


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work on one stage."""

    stage: int
    work: Work
    start_s: float
    """Seconds since the step began."""
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """All spans of one step."""

    stages: int
    micro_batches: int
    spans: tuple[Span, ...]

    @property
    def makespan_s(self) -> float:
        """Seconds from the first start to the last end."""
        starts, ends = [s.start_s for s in self.spans], [s.end_s for s in self.spans]
        return max(ends) - min(starts)

    def busy_s(self, stage: int) -> float:
        """Return the seconds that a stage worked."""
        return sum(span.end_s - span.start_s for span in self.spans if span.stage == stage)

    @property
    def bubble(self) -> float:
        """The share of all stages' time in which they waited, 0 to 1."""
        busy_s = sum(span.end_s - span.start_s for span in self.spans)
        return 1 - busy_s / (self.stages * self.makespan_s)

    @property
    def ideal_bubble(self) -> float:
        """(K-1) / (M+K-1): the bubble of equal stages and free transfers (GPipe, section 2.3)."""
        return (self.stages - 1) / (self.micro_batches + self.stages - 1)
