"""StageModule: the blocks of one stage as a module that `torch.distributed.pipelining` runs.

Its schedules know nothing of mini-batches, so the module counts: the n-th forward pass of a step is
micro-batch n. What it draws and what batch norm notes are those of the other engines.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stages.train.deferred_norm import DeferredNorms
from stages.train.gpipe.cell import CellPlan
from stages.train.gpipe.chain import Block, Carry
from stages.train.gpipe.probe import Layout, overwrites_input


class StageModule(nn.Module):
    """One stage: tensors of a carry in, tensors of the next carry out."""

    def __init__(self, blocks: tuple[Block, ...], plan: CellPlan, inputs: tuple[Layout, ...]):
        super().__init__()
        self.blocks = nn.ModuleList(block.module for block in blocks)
        self.norms = DeferredNorms(self.blocks)
        self._chain = blocks
        self._plan, self._place = plan, torch.device(str(plan.device))
        self._channels_last = [_is_channels_last(layout) for layout in inputs]
        self._step = self._forwards = 0

    def begin(self, step: int) -> None:
        """Begin an optimizer step: the next forward pass is of its first micro-batch."""
        self._step, self._forwards = step, 0

    def forward(self, *carry: torch.Tensor) -> torch.Tensor | Carry:
        """Run the next micro-batch through the blocks."""
        m, self._forwards = self._forwards, self._forwards + 1
        carry = self._laid_out(carry)
        last = len(self._chain) - 1
        if self._forgets(m):
            carry = self._again_later(m, 0, last, carry)
        elif self._plan.recompute == "blocks":
            for number in range(last + 1):
                carry = self._again_later(m, number, number, carry)
        else:
            carry = self._run(m, 0, last, carry, first_time=True)
        # What crosses to another rank lies there without gaps, in the order of its axes.
        first, *rest = (tensor.contiguous() for tensor in carry)
        return (first, *rest) if rest else first

    def _forgets(self, m: int) -> bool:
        mode = self._plan.recompute
        return mode == "always" or (mode == "except_last" and m < self._plan.micro_batches - 1)

    def _again_later(self, m: int, first: int, last: int, carry: Carry) -> Carry:
        """Run some blocks and forget what they computed; their backward pass runs them again."""
        runs = 0

        def run(*given: torch.Tensor) -> Carry:
            nonlocal runs
            runs += 1
            return self._run(m, first, last, given, first_time=runs == 1)

        # Its own random states are of no use: each block draws from a stream by its key.
        result: Carry = checkpoint(run, *carry, use_reentrant=False, preserve_rng_state=False)
        return result

    def _run(self, m: int, first: int, last: int, carry: Carry, *, first_time: bool) -> Carry:
        plan = self._plan
        if not first_time or first == 0:
            self.norms.select(m if first_time else None)
        if overwrites_input(plan.traits[first : last + 1]):
            carry = tuple(tensor.clone() for tensor in carry)
        with plan.precision.autocast(plan.device):
            for number in range(first, last + 1):
                carry = self._run_block(m, number, carry)
        return carry

    def _run_block(self, m: int, number: int, carry: Carry) -> Carry:
        return self._plan.run_block(self._chain, number, m, self._step, self._place, carry)

    def _laid_out(self, carry: Carry) -> Carry:
        return tuple(
            _Received.apply(tensor, channels_last)
            for tensor, channels_last in zip(carry, self._channels_last, strict=True)
        )


class _Received(torch.autograd.Function):
    """A tensor from another rank in the layout that blocks like; its gradient in that of a wire."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, tensor: torch.Tensor, channels_last: bool
    ) -> torch.Tensor:
        if channels_last:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        return grad.contiguous(), None


def _is_channels_last(layout: Layout) -> bool:
    if len(layout.shape) != 4:
        return False
    example = torch.empty_strided(layout.shape, layout.stride, device="meta")
    return not example.is_contiguous() and example.is_contiguous(memory_format=torch.channels_last)
