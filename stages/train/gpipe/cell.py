"""Cell: one stage of a pipeline at work: its blocks, and the micro-batches that are alive in it.

    out = cell.forward(m, carry)        # forgets the graph if it is to be computed again
    grads = cell.backward(m, grads)     # of the carry that forward was given
    cell.weights(m)                     # where a schedule has the gradients of weights come later

Recomputation is the cell's own (GPipe, section 2.3, "re-materialization"): forward without a graph,
keeping the input only, and again with one in the backward pass, with the same random numbers and
without counting for batch norm statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch

from pipeline.device import Device
from stages.train.deferred_norm import DeferredNorms
from stages.train.deferred_weights import DeferredWeights, deferring
from stages.train.gpipe.chain import Block, Carry
from stages.train.gpipe.probe import Traits, overwrites_input
from stages.train.gpipe.randomness import key, keyed
from stages.train.precision import Precision

Recompute = Literal["never", "except_last", "always", "blocks"]
Grads = tuple[torch.Tensor | None, ...]
"""Gradients of a carry; None where a tensor has none."""
Finish = Callable[[int, Carry, bool], torch.Tensor]
"""Turns the last stage's output into its scaled loss; the flag says: for the first time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPlan:
    """Everything about a stage but its blocks; small enough to be sent."""

    stage: int
    first_block: int
    """Number of its first block in the chain: blocks keep their random streams wherever they go."""
    traits: tuple[Traits, ...]
    recompute: Recompute
    micro_batches: int
    seed: int
    precision: Precision
    device: Device
    defers_weights: bool = False
    """Whether gradients of weights are computed by `Cell.weights`; nothing is recomputed then."""

    def run_block(
        self,
        blocks: Sequence[Block],
        number: int,
        m: int,
        step: int,
        place: torch.device,
        carry: Carry,
    ) -> Carry:
        """Run one of the stage's blocks; it draws the same numbers however often it is run."""
        if not self.traits[number].draws:
            return blocks[number](carry)
        stream = key(self.seed, step=step, micro_batch=m, block=self.first_block + number)
        with keyed(place, stream):
            return blocks[number](carry)


@dataclass(frozen=True, slots=True)
class _Alive:
    """A micro-batch between its forward and its backward pass."""

    inputs: Carry
    outputs: Carry | None
    """None: to be computed again."""


@dataclass
class Cell:
    """Runs the blocks of one stage forward and backward."""

    blocks: tuple[Block, ...]
    plan: CellPlan
    place: torch.device
    """Where the blocks are."""
    finish: Finish | None = None
    """For the last stage, whose output is the loss."""
    _alive: dict[int, _Alive] = field(default_factory=dict)
    _step: int = 0

    def __post_init__(self) -> None:
        self._norms = DeferredNorms(block.module for block in self.blocks)
        self._later = DeferredWeights() if self.plan.defers_weights else None
        self._keeps_input = not overwrites_input(self.plan.traits)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Begin an optimizer step; at its end, batch norm statistics move."""
        self._step = number
        try:
            with self._norms.deferred(self.plan.micro_batches):
                yield
        finally:
            self._alive.clear()
            if self._later is not None:
                self._later.clear()

    def forward(self, m: int, carry: Carry) -> Carry:
        """Run a micro-batch through; returns what crosses to the next stage, without a graph."""
        self._norms.select(m)
        if self._forgets(m):
            with torch.no_grad():
                outputs = self._run(m, self._own(carry), first_time=True)
            self._alive[m] = _Alive(carry, None)
            return outputs
        inputs = self._leaves(carry)
        with deferring(self._later):
            outputs = self._run(m, self._own(inputs), first_time=True)
        self._alive[m] = _Alive(inputs, outputs)
        return tuple(tensor.detach() for tensor in outputs)

    def backward(self, m: int, grads: Grads | None) -> Grads:
        """Run a micro-batch back; adds to ``grad`` of the parameters.

        Args:
            m: its number.
            grads: of what forward returned; None on the last stage, which ends in the loss.

        Returns:
            The gradients of what forward was given, None where there is none.
        """
        alive = self._alive.pop(m)
        if alive.outputs is not None:
            with nullcontext() if self._later is None else self._later.collecting(m):
                _backward(alive.outputs, grads)
            return tuple(tensor.grad for tensor in alive.inputs)
        self._norms.select(None)
        if self.plan.recompute == "blocks":
            return self._backward_by_block(m, alive.inputs, grads)
        inputs = self._leaves(alive.inputs)
        _backward(self._run(m, self._own(inputs), first_time=False), grads)
        return tuple(tensor.grad for tensor in inputs)

    def weights(self, m: int) -> None:
        """Add what the backward pass of micro-batch m left for later to ``grad``."""
        if self._later is not None:
            self._later.work_off(m)

    def _forgets(self, m: int) -> bool:
        mode = self.plan.recompute
        if mode == "except_last":
            return m < self.plan.micro_batches - 1
        return mode != "never"

    def _backward_by_block(self, m: int, carry: Carry, grads: Grads | None) -> Grads:
        """Compute the blocks' inputs again, then go back block by block: one graph at a time."""
        kept = []
        with torch.no_grad(), self.plan.precision.autocast(self.plan.device):
            for number in range(len(self.blocks)):
                kept.append(carry)
                if number < len(self.blocks) - 1:
                    carry = self._run_block(m, number, self._copy_if_written(number, carry))
        for number in reversed(range(len(self.blocks))):
            inputs = self._leaves(kept.pop(), inner=number > 0)
            with self.plan.precision.autocast(self.plan.device):
                outputs = self._run_block(m, number, self._copy_if_written(number, inputs))
                if self.finish is not None and number == len(self.blocks) - 1:
                    outputs = (self.finish(m, outputs, False),)
            _backward(outputs, grads)
            grads = tuple(tensor.grad for tensor in inputs)
        assert grads is not None  # a stage has at least one block
        return grads

    def _run(self, m: int, carry: Carry, *, first_time: bool) -> Carry:
        with self.plan.precision.autocast(self.plan.device):
            for number in range(len(self.blocks)):
                carry = self._run_block(m, number, carry)
            if self.finish is not None:
                return (self.finish(m, carry, first_time),)
        return carry

    def _run_block(self, m: int, number: int, carry: Carry) -> Carry:
        return self.plan.run_block(self.blocks, number, m, self._step, self.place, carry)

    def _leaves(self, carry: Carry, *, inner: bool = False) -> Carry:
        """Return the same tensors at the root of a new graph."""
        if self.plan.stage == 0 and not inner:  # nobody asks for the gradient of an image
            return carry
        return tuple(tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in carry)

    def _own(self, carry: Carry) -> Carry:
        """Return tensors that the blocks may write to, if they do."""
        return carry if self._keeps_input else tuple(tensor.clone() for tensor in carry)

    def _copy_if_written(self, number: int, carry: Carry) -> Carry:
        # Of what runs without a graph, an alias may be all that keeps a block's input.
        return (
            tuple(tensor.clone() for tensor in carry)
            if overwrites_input(self.plan.traits[number:])
            else carry
        )


def _backward(outputs: Sequence[torch.Tensor], grads: Grads | None) -> None:
    """Run back from outputs; without gradients they are one scalar."""
    if grads is None:
        torch.autograd.backward(outputs)
        return
    pairs = [
        (output, grad)
        for output, grad in zip(outputs, grads, strict=True)
        if output.requires_grad and grad is not None
    ]
    if pairs:
        torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])
