"""Budget: what any stage of a chain would take in memory, added up from its blocks.

    budget = measure_budget(meter, weights)
    budget.total(0, 5, size=8, recompute="always", alive=4)

Each block is measured alone at two micro-batch sizes; between and beyond, bytes are a line in the
size. Adding blocks up is exact where a block keeps what it was given, and a little too much where
it does not; so what fits here fits. `MemoryMeter` measures a chosen stage as a whole, to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.train.gpipe.chain import Block
from stages.train.gpipe.memory import MemoryMeter, Recompute
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


@dataclass(frozen=True, slots=True)
class Budget:
    """The blocks of a chain, or of a deeper network made of the same blocks."""

    blocks: tuple[BlockBudget, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    def activations(
        self, start: int, stop: int, size: int, recompute: Recompute, alive: int
    ) -> float:
        """Return the peak of activations and temporaries; see `MemoryMeter.activations`."""
        before = kept = peak = by_block = 0.0
        for block in self.blocks[start:stop]:
            # The boundary between two blocks is the output of one and the input of the other.
            shared = block.inputs.at(size) if kept else 0.0
            peak = max(peak, kept - shared + block.peak.at(size))
            kept += block.kept.at(size) - shared
            # Computed again while the gradient of its output waits.
            by_block = max(by_block, before + block.peak.at(size) + block.outputs.at(size))
            before += block.inputs.at(size)
        inputs = self.blocks[start].inputs.at(size)
        match recompute:
            case "never":
                return (alive - 1) * kept + peak
            case "always":
                return (alive - 1) * inputs + peak
            case "blocks":
                return (alive - 1) * inputs + by_block
            case "except_last":
                return ((alive - 2) * inputs + kept if alive > 1 else 0.0) + peak

    def weights(self, start: int, stop: int) -> int:
        """Return the bytes of a stage's weights and of what is kept for each of them."""
        return sum(block.weights for block in self.blocks[start:stop])

    def total(self, start: int, stop: int, size: int, recompute: Recompute, alive: int) -> float:
        """Return all bytes of a stage."""
        activations = self.activations(start, stop, size, recompute, alive)
        return self.weights(start, stop) + activations


def measure_budget(meter: MemoryMeter, weights: ParameterBytes) -> Budget:
    """Measure every block of a meter's chain alone."""
    blocks = meter.chain.blocks
    return Budget(tuple(_measure(meter, weights, blocks, i) for i in range(len(blocks))))


def _measure(
    meter: MemoryMeter, weights: ParameterBytes, blocks: Sequence[Block], position: int
) -> BlockBudget:
    low, high = (meter.stage(position, position + 1, size) for size in SIZES)
    block = blocks[position]
    return BlockBudget(
        name=block.name,
        parameters=num_parameters([block]),
        weights=weights.of([block]),
        inputs=_line(low.inputs, high.inputs),
        outputs=_line(low.outputs, high.outputs),
        kept=_line(low.kept, high.kept),
        peak=_line(low.peak, high.peak),
    )


def _line(low: int, high: int) -> Line:
    each = (high - low) / (SIZES[1] - SIZES[0])
    return Line(fixed=low - each * SIZES[0], each=each)
