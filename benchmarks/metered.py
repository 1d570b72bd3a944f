"""Metered: batches that start the clock after the first step, and stop it after the last.

Setting a loop up and taking it down is not what is compared, and the first step may have to get
back the memory that was given away since the turn before: neither counts, for any side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from benchmarks.clock import Stopwatch
from benchmarks.measure import Turn
from stages.augment.loader import Batch

WARM_STEPS = 1


@dataclass
class Metered:
    """Batches held in memory, repeated for some warm steps and then `steps` that are measured."""

    batches: Sequence[Batch]
    steps: int = 1
    turn: Turn = field(default_factory=lambda: Turn(0, 0, 0))
    _watch: Stopwatch = field(default_factory=Stopwatch)

    def __len__(self) -> int:
        return WARM_STEPS + self.steps

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(islice(cycle(self.batches), len(self))):
            if number == WARM_STEPS:
                self._watch = Stopwatch()
            yield batch
        self.finish()

    def finish(self) -> None:
        """Stop the clock; for loops that count their batches and never ask for one too many."""
        self.turn = Turn(self.steps, self._watch.wall_s, self._watch.cpu_s)
