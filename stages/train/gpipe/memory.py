"""Memory: bytes of activations and temporaries that training a piece of a chain takes, planned.

    meter = MemoryMeter(chain, images)
    meter.activations(0, 5, 8, "always", alive=4)    # blocks 0 to 4, micro-batches of 8

The network is copied with fake tensors, trained for one micro-batch, and every storage is followed
(`tracker`): no memory, no computation, and the same bytes as on real tensors. Weights and their
gradients are not in it (`weights`); a chain's inputs, and what crosses a cut, are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.functional import cross_entropy

from stages.train.deferred_weights import DeferredWeights, deferring
from stages.train.gpipe.chain import Block, Carry, Chain
from stages.train.gpipe.tracker import StorageTracker

Recompute = Literal["never", "except_last", "always", "blocks"]
Loss = Callable[[torch.Tensor], torch.Tensor]
Autocast = Callable[[], AbstractContextManager[object]]


def any_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return a cross-entropy that costs what a real one does: logits (N, ..., classes)."""
    rows = logits.float().flatten(0, -2)
    targets = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    return cross_entropy(rows, targets)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageMemory:
    """Bytes of one micro-batch on one stage that computes nothing again."""

    inputs: int
    """What it brings: all that is left of it in a stage that computes it again."""
    outputs: int
    """What goes on to the next stage; nothing from the last."""
    kept: int
    """Between its forward and its backward pass: inputs, outputs, what autograd saves."""
    peak: int
    """Forward and back, with nothing else there."""
    left: int = 0
    """After that, what gradients of weights that come later are computed from."""
    work: int = 0
    """What computing them takes beside."""


class MemoryMeter:
    """Measures pieces of one chain, each only once."""

    def __init__(
        self,
        chain: Chain,
        images: torch.Tensor,
        *,
        loss: Loss = any_loss,
        autocast: Autocast = nullcontext,
        defers_weights: bool = False,
    ) -> None:
        """Copy the chain.

        Args:
            chain: the whole network; it is left as it is.
            images: an example of what the first block takes; only its shape and type matter.
            loss: from the last block's output to a scalar.
            autocast: the context of a forward pass.
            defers_weights: gradients of weights come later, but for the first stage, as
                zero-bubble schedules have them.
        """
        self.defers_weights = defers_weights
        self._mode = FakeTensorMode()
        with FakeCopyMode(self._mode):
            self.chain = copy.deepcopy(chain)
        self._shape, self._images_like = images.shape[1:], images
        self._loss, self._autocast = loss, autocast
        modules = nn.ModuleList([block.module for block in self.chain.blocks])
        with self._mode:
            for parameter in modules.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        grads = [p.grad for p in modules.parameters() if p.grad is not None]
        self._keep_out = [*modules.parameters(), *grads, *modules.buffers()]
        self.stage = cache(self._stage)
        self.peak_by_block = cache(self._peak_by_block)
        self.carries = cache(self._carries)

    def activations(
        self, start: int, stop: int, size: int, recompute: Recompute, alive: int
    ) -> int:
        """Return the peak of a stage on which so many micro-batches wait for their way back.

        Backward passes come in the order of the forward passes, so under ``except_last`` the last
        one's activations wait while the first is computed again.
        """
        defers = self.defers_weights and start > 0 and recompute == "never"
        stage = self.stage(start, stop, size, defers)
        match recompute:
            case "never":
                waiting = (alive - 1) * max(stage.kept, stage.left)
                return waiting + max(stage.peak, stage.left + stage.work)
            case "always":
                return (alive - 1) * stage.inputs + stage.peak
            case "blocks":
                return (alive - 1) * stage.inputs + self.peak_by_block(start, stop, size)
            case "except_last":
                waiting = (alive - 2) * stage.inputs + stage.kept if alive > 1 else 0
                return waiting + stage.peak

    def _carries(self, size: int) -> tuple[Carry, ...]:
        """Return what enters each block, and what leaves the last, for a micro-batch (fake)."""
        with self._mode:
            dtype, device = self._images_like.dtype, self._images_like.device
            carry: Carry = (torch.empty((size, *self._shape), dtype=dtype, device=device),)
            carries = [carry]
            for block in self.chain.blocks:
                with self._autocast():
                    carry = leaves(block(carry))
                carries.append(carry)
        return tuple(carries)

    def link_bytes(self, size: int) -> tuple[int, ...]:
        """Return the bytes of a micro-batch over a cut after each block but the last."""
        return tuple(carry_bytes(carry) for carry in self.carries(size)[1:-1])

    def _stage(self, start: int, stop: int, size: int, defers_weights: bool = False) -> StageMemory:
        """Measure the blocks from `start` up to `stop` as one stage."""
        later = DeferredWeights() if defers_weights else None
        run = self._run(start, stop, size)
        with self._tracked() as tracker:
            inputs = run.inputs()
            inputs_bytes = tracker.bytes
            with deferring(later):
                roots = run.forward(inputs)
            kept, left, work = tracker.bytes, 0, 0
            with nullcontext() if later is None else later.collecting(0):
                run.backward(roots)
            peak = tracker.peak_bytes
            if later is not None:
                del inputs, roots
                left = tracker.bytes
                tracker.mark()
                later.work_off(0)
                work = tracker.peak_bytes - left
        return StageMemory(
            inputs=inputs_bytes,
            outputs=carry_bytes(self.carries(size)[stop]) if stop < len(self.chain) else 0,
            kept=kept,
            peak=peak,
            left=left,
            work=work,
        )

    def _peak_by_block(self, start: int, stop: int, size: int) -> int:
        """Measure one micro-batch with only the inputs of blocks kept, each computed again."""
        with self._tracked() as tracker:
            self._run(start, stop, size).by_block()
        return tracker.peak_bytes

    def _run(self, start: int, stop: int, size: int) -> _Run:
        return _Run(
            blocks=self.chain.blocks[start:stop],
            carries=self.carries(size)[start : stop + 1],
            loss=self._loss if stop == len(self.chain) else None,
            autocast=self._autocast,
        )

    @contextmanager
    def _tracked(self) -> Iterator[StorageTracker]:
        with self._mode, StorageTracker(self._keep_out) as tracker:
            yield tracker


@dataclass(frozen=True, slots=True)
class _Run:
    """One micro-batch through the blocks of one stage."""

    blocks: Sequence[Block]
    carries: Sequence[Carry]
    """What enters each block and what leaves the last: shapes, types, and which need gradients."""
    loss: Loss | None
    autocast: Autocast

    def inputs(self) -> Carry:
        return leaves([torch.empty_like(t) for t in self.carries[0]], self.carries[0])

    def forward(self, carry: Carry) -> Carry:
        with self.autocast():
            for block in self.blocks:
                carry = block(carry)
            if self.loss is not None:
                return (self.loss(*carry),)
        return carry

    def backward(self, roots: Carry) -> None:
        if self.loss is not None:
            torch.autograd.backward(roots)
        else:
            roots = tuple(root for root in roots if root.requires_grad)
            torch.autograd.backward(roots, [torch.empty_like(root) for root in roots])

    def by_block(self) -> None:
        """Go forward without a graph, then back with one block's graph at a time."""
        entering = [self.inputs()]
        with torch.no_grad(), self.autocast():
            for block in self.blocks[:-1]:
                entering.append(block(entering[-1]))
        grads: Carry = ()
        for position in reversed(range(len(self.blocks))):
            last = position == len(self.blocks) - 1
            carry = leaves(entering.pop(), self.carries[position])
            one = _Run(
                self.blocks[position : position + 1], (), self.loss if last else None, self.autocast
            )
            roots = one.forward(carry)
            if last:
                one.backward(roots)
            else:
                torch.autograd.backward([r for r in roots if r.requires_grad], grads)
            grads = tuple(t.grad for t in carry if t.grad is not None)
            del carry, roots


def leaves(carry: Sequence[torch.Tensor], like: Sequence[torch.Tensor] = ()) -> Carry:
    """Return tensors cut off from their graph; they need gradients where those of `like` do."""
    like = like or carry
    return tuple(
        tensor.detach().requires_grad_(other.requires_grad)
        for tensor, other in zip(carry, like, strict=True)
    )


def carry_bytes(carry: Carry) -> int:
    """Return the bytes of tensors as they are sent."""
    return sum(tensor.numel() * tensor.element_size() for tensor in carry)
