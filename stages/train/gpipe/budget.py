"""Budget: what any stage of a chain would take in memory, added up from its blocks.

    budget = measure_budget(meter, weights)
    budget.tally(0, 5, size=8).total("always", alive=4)

Each block is measured alone at two micro-batch sizes; between and beyond, bytes are a line in the
size. Adding blocks up is exact where a block keeps what it was given, and a little too much where
it does not; so what fits here fits. `MemoryMeter` measures a chosen stage as a whole, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from typing import NamedTuple

from stages.train.gpipe.chain import Block
from stages.train.gpipe.memory import MemoryMeter, Recompute
from stages.train.gpipe.orders import Schedule, defers_weights
from stages.train.gpipe.weights import ParameterBytes, num_parameters

SIZES = (2, 4)
"""Micro-batches in which blocks are measured; batch norm may refuse one sample."""


@dataclass(frozen=True, slots=True)
class Line:
    """Bytes as a line in the micro-batch size."""

    fixed: float
    each: float

    def at(self, size: int) -> float:
        """Return the bytes of a micro-batch of that size."""
        return self.fixed + self.each * size


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitBudget:
    """What one block takes whose gradients of weights come later."""

    peak: Line
    """One micro-batch forward and back through this block alone."""
    left: Line
    """After that, what the gradients of weights are computed from."""
    work: Line
    """What computing them takes beside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockBudget:
    """What one block takes."""

    name: str
    parameters: int
    weights: int
    """Bytes of parameters, gradients, optimizer, average and buffers."""
    inputs: Line
    outputs: Line
    """What crosses to the next block; nothing after the last."""
    kept: Line
    """Inputs, outputs and what autograd saves."""
    peak: Line
    """One micro-batch forward and back through this block alone."""
    split: SplitBudget | None = None
    """Measured where the schedule has stages that defer the gradients of weights."""


class Tally(NamedTuple):
    """What blocks in a row take as one stage, for micro-batches of one size.

    Neighbours add up in any grouping: `a.then(b).then(c) == a.then(b.then(c))`.
    """

    blocks: int = 0
    weights: int = 0
    inputs: float = 0.0
    kept: float = 0.0
    peak: float = 0.0
    entered: float = 0.0
    """What entered its blocks."""
    peak_by_block: float = 0.0
    split_peak: float = 0.0
    """Of `peak`, where gradients of weights come later."""
    left: float = 0.0
    """What those are computed from."""
    work: float = 0.0
    """What computing them takes beside."""

    @classmethod
    def of(cls, block: BlockBudget, size: int) -> Tally:
        """Return what one block takes for micro-batches of `size` samples."""
        entering, peak, split = block.inputs.at(size), block.peak.at(size), block.split
        return cls(
            blocks=1,
            weights=block.weights,
            inputs=entering,
            kept=block.kept.at(size),
            peak=peak,
            entered=entering,
            # Computed again while the gradient of its output waits.
            peak_by_block=peak + block.outputs.at(size),
            split_peak=split.peak.at(size) if split else peak,
            left=split.left.at(size) if split else 0.0,
            work=split.work.at(size) if split else 0.0,
        )

    def then(self, after: Tally) -> Tally:
        """Return what these blocks and those after them take as one stage."""
        if not self.blocks:
            return after
        # The boundary between two blocks is the output of one and the input of the other.
        beside = self.kept - after.inputs
        return Tally(
            blocks=self.blocks + after.blocks,
            weights=self.weights + after.weights,
            inputs=self.inputs,
            kept=beside + after.kept,
            peak=max(self.peak, beside + after.peak),
            entered=self.entered + after.entered,
            peak_by_block=max(self.peak_by_block, self.entered + after.peak_by_block),
            # On the way back, what comes after has left its jobs.
            split_peak=max(self.split_peak + after.left, beside + after.split_peak),
            left=self.left + after.left,
            work=max(self.work, after.work),
        )

    def activations(self, recompute: Recompute, alive: int, defers: bool = False) -> float:
        """Return the peak of activations and temporaries; see `MemoryMeter.activations`.

        Args:
            recompute: what is computed again.
            alive: micro-batches that wait for their way back, or for their gradients of weights.
            defers: whether those come later; only where nothing is computed again.
        """
        match recompute:
            case "never" if defers:
                waiting = (alive - 1) * max(self.kept, self.left)
                return waiting + max(self.split_peak, self.left + self.work)
            case "never":
                return (alive - 1) * self.kept + self.peak
            case "always":
                return (alive - 1) * self.inputs + self.peak
            case "blocks":
                return (alive - 1) * self.inputs + self.peak_by_block
            case "except_last":
                return ((alive - 2) * self.inputs + self.kept if alive > 1 else 0.0) + self.peak

    def total(self, recompute: Recompute, alive: int, defers: bool = False) -> float:
        """Return all bytes of the stage."""
        return self.weights + self.activations(recompute, alive, defers)


@dataclass(frozen=True, slots=True)
class Budget:
    """The blocks of a chain, or of a deeper network made of the same blocks."""

    blocks: tuple[BlockBudget, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    def tally(self, start: int, stop: int, size: int) -> Tally:
        """Return the blocks from `start` up to `stop` as one stage."""
        return add_up(self.blocks[start:stop], size)

    def fits(
        self,
        limit: float,
        size: int,
        recompute: Recompute,
        alive: Sequence[int],
        schedule: Schedule = "gpipe",
    ) -> bool:
        """Return whether the chain can be cut so that every stage fits the limit.

        Exact: stage by stage, every block that the next stage could begin at is kept. What one
        stage takes only grows with each block at its end, so its longest form tells all of them.

        Args:
            limit: bytes of a device.
            size: samples of a micro-batch.
            recompute: what is computed again.
            alive: micro-batches alive on each stage; fewer stages than entries will do.
            schedule: says which stages defer gradients of weights.
        """
        longest = cache(partial(self._longest, limit, size, recompute))
        starts = {0}
        for stage, waiting in enumerate(alive[: len(self)]):
            defers = defers_weights(schedule, stage)
            starts = {
                stop
                for start in starts
                for stop in range(start + 1, longest(waiting, defers, start) + 1)
            }
            if len(self) in starts:
                return True
        return False

    def _longest(
        self, limit: float, size: int, recompute: Recompute, alive: int, defers: bool, start: int
    ) -> int:
        """Return where the longest stage ends that begins with block `start` and fits."""
        tally = Tally()
        for stop in range(start, len(self)):
            tally = tally.then(Tally.of(self.blocks[stop], size))
            if tally.total(recompute, alive, defers) > limit:
                return stop
        return len(self)


def add_up(blocks: Iterable[BlockBudget], size: int) -> Tally:
    """Return what blocks in a row take as one stage."""
    return reduce(Tally.then, (Tally.of(block, size) for block in blocks), Tally())


def measure_budget(meter: MemoryMeter, weights: ParameterBytes) -> Budget:
    """Measure every block of a meter's chain alone."""
    blocks = meter.chain.blocks
    return Budget(tuple(_measure(meter, weights, blocks, i) for i in range(len(blocks))))


def _measure(
    meter: MemoryMeter, weights: ParameterBytes, blocks: Sequence[Block], position: int
) -> BlockBudget:
    low, high = (meter.stage(position, position + 1, size) for size in SIZES)
    block, split = blocks[position], None
    if meter.defers_weights:
        few, many = (meter.stage(position, position + 1, size, True) for size in SIZES)
        split = SplitBudget(
            peak=_line(few.peak, many.peak),
            left=_line(few.left, many.left),
            work=_line(few.work, many.work),
        )
    return BlockBudget(
        name=block.name,
        parameters=num_parameters([block]),
        weights=weights.of([block]),
        inputs=_line(low.inputs, high.inputs),
        outputs=_line(low.outputs, high.outputs),
        kept=_line(low.kept, high.kept),
        peak=_line(low.peak, high.peak),
        split=split,
    )


def _line(low: int, high: int) -> Line:
    each = (high - low) / (SIZES[1] - SIZES[0])
    return Line(fixed=low - each * SIZES[0], each=each)
