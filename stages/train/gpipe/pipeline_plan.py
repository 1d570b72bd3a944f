"""PipelinePlan: how one training step is laid over stages, and what that is expected to take."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from stages.train.gpipe.memory import Recompute
from stages.train.gpipe.orders import Schedule
from stages.train.gpipe.timeline import Timeline


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """One stage."""

    layers: tuple[str, ...]
    """Names of its blocks."""
    parameters: int
    forward_ms: float
    """Of one micro-batch."""
    backward_ms: float
    """Of one micro-batch, with what is computed again."""
    activation_bytes: int
    """Peak of activations and temporaries in the schedule."""
    memory_bytes: int
    """Those, and weights, gradients, optimizer states and average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelinePlan:
    """A whole step."""

    bounds: tuple[int, ...]
    """Block numbers: 0, the cuts, and the end."""
    stages: tuple[StagePlan, ...]
    batch: int
    """Samples of a mini-batch."""
    micro_batches: int
    schedule: Schedule
    recompute: Recompute
    predicted: Timeline
    """The simulated step."""
    plain_s: float
    """A plain step on one device with as many micro-batches, from the same profile."""
    best_plain_s: float
    """The fastest plain step over all numbers of micro-batches."""
    reasons: tuple[str, ...]
    """Why it is so, in sentences."""

    @property
    def step_s(self) -> float:
        """Predicted seconds of a step: forward and backward of a mini-batch."""
        return self.predicted.makespan_s

    @property
    def imbalance(self) -> float:
        """The dearest stage's time over the mean: 1 is perfect."""
        times = [stage.forward_ms + stage.backward_ms for stage in self.stages]
        return max(times) * len(times) / sum(times) if sum(times) else 1.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each micro-batch; the first ones are larger where it does not divide."""
        even, more = divmod(self.batch, self.micro_batches)
        return (even + 1,) * more + (even,) * (self.micro_batches - more)

    def stage_of(self, block: int) -> int:
        """Return the stage that runs a block."""
        for stage, (start, stop) in enumerate(pairwise(self.bounds)):
            if start <= block < stop:
                return stage
        raise IndexError(block)
