"""Board: where each stage notes what it does, for all processes to see.

A stage has one number that is 1 while it waits, and the stamps of its works.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.train.gpipe.courier import STAMPS_PER_WORK, Stamps, stamps_in
from stages.train.gpipe.shared import Shared

_NUMBER_BYTES = 8


class Board:
    """The notes of all stages in one piece of shared memory."""

    def __init__(self, works: Sequence[int]) -> None:
        self.works = works
        rows = [1 + STAMPS_PER_WORK * count for count in works]
        self._first = [sum(rows[:stage]) for stage in range(len(rows))]
        self.memory = Shared.of_size(_NUMBER_BYTES * sum(rows))
        self.notes = [
            notes_of(self.memory, self.offset(stage), count) for stage, count in enumerate(works)
        ]

    def offset(self, stage: int) -> int:
        """Return where the notes of a stage begin, in bytes."""
        return _NUMBER_BYTES * self._first[stage]

    def clear(self) -> None:
        """Wipe everything before a step."""
        for waits, stamps in self.notes:
            waits[0] = 0.0
            for end in range(1, len(stamps), STAMPS_PER_WORK):
                stamps[end] = 0.0

    def silent_stage(self) -> int:
        """Return the stage that the others wait for: it neither waits nor has done all its work."""
        unfinished = [
            (waits[0], stage)
            for stage, (waits, stamps) in enumerate(self.notes)
            if not stamps[1 - STAMPS_PER_WORK]
        ]
        return min(unfinished)[1] if unfinished else 0


def notes_of(memory: Shared, offset: int, works: int) -> tuple[Stamps, Stamps]:
    """Return the number that says whether a stage waits, and its stamps."""
    first = offset // _NUMBER_BYTES
    size = memory.num_bytes // _NUMBER_BYTES * _NUMBER_BYTES
    row = stamps_in(memoryview(memory.memory)[:size])
    return row[first : first + 1], row[first + 1 : first + 1 + STAMPS_PER_WORK * works]
