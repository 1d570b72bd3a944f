"""Profile: seconds of each block, forward and backward, at a few micro-batch sizes.

    profile = profile_chain(chain, images, sizes=(2, 8, 32))
    profile.forward_s(8)        # one number a block; other sizes are interpolated

On a CPU it takes the time of its own thread, which other programs do not disturb as they disturb
the clock on the wall; on a GPU it takes events on the stream. What it takes to time a block alone,
and to start autograd for it, is measured on empty blocks and taken off: a stage starts it once.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from stages.train.deferred_weights import DeferredWeights
from stages.train.gpipe.chain import Block, Carry, Chain
from stages.train.gpipe.memory import Autocast, Loss, any_loss, leaves

WARM_UPS, ROUNDS = 1, 3
BUDGET_S = 20.0
"""Larger sizes are left out, and extrapolated, when all that was measured took this long."""

_LEAST_SHARE = 0.1
"""Of what was measured, that is left to a block when the time around it is taken off."""

Timer = Callable[[Callable[[], Carry]], tuple[Carry, float]]
"""Runs something and returns its result with the seconds that it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What each block takes."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """Samples in a micro-batch, ascending."""
    forward: tuple[tuple[float, ...], ...]
    """forward[size][block], seconds."""
    backward: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...] = ()
    """Of backward, what gradients of weights take that can come later; empty: nothing."""

    def forward_s(self, size: float) -> tuple[float, ...]:
        """Return the seconds of each block for a micro-batch of any size."""
        return self._at(self.forward, size)

    def backward_s(self, size: float) -> tuple[float, ...]:
        """Return the seconds of each block for a micro-batch of any size, gradients added up."""
        return self._at(self.backward, size)

    def weights_s(self, size: float) -> tuple[float, ...]:
        """Return the seconds of each block's backward pass that can come later."""
        if not self.weights:
            return (0.0,) * len(self.names)
        # By themselves they may be extrapolated to more than the whole.
        return tuple(map(min, self._at(self.weights, size), self.backward_s(size)))

    def step_s(self, batch: int, micro_batches: int) -> float:
        """Return the seconds of a mini-batch on one device without a pipeline."""
        size = batch / micro_batches
        return micro_batches * (sum(self.forward_s(size)) + sum(self.backward_s(size)))

    def _at(self, rows: tuple[tuple[float, ...], ...], size: float) -> tuple[float, ...]:
        if len(self.sizes) == 1:
            return tuple(value * size / self.sizes[0] for value in rows[0])
        right = min(max(bisect_left(self.sizes, size), 1), len(self.sizes) - 1)
        a, b = self.sizes[right - 1], self.sizes[right]
        share = (size - a) / (b - a)
        return tuple(
            # Outside of what was measured, noise must not make a time negative.
            max(low + share * (high - low), 0.1 * min(low, high))
            for low, high in zip(rows[right - 1], rows[right], strict=True)
        )


def profile_chain(
    chain: Chain,
    images: torch.Tensor,
    sizes: Sequence[int],
    *,
    loss: Loss = any_loss,
    autocast: Autocast = nullcontext,
    rounds: int = ROUNDS,
    defers_weights: bool = False,
) -> Profile:
    """Time every block; weights, gradients, statistics and random streams stay as they were.

    Args:
        chain: the network, in the mode (train) that is to be timed, on its device.
        images: at least as many as the largest size, or an example to repeat.
        sizes: of micro-batches.
        loss: from the last block's output to a scalar; its time is the last block's.
        autocast: the context of a forward pass.
        rounds: timings of which the median counts.
        defers_weights: time the gradients of weights by themselves, as they can come later.
    """
    timer = _events if images.is_cuda else _thread_time
    forward: list[tuple[float, ...]] = []
    backward: list[tuple[float, ...]] = []
    weights: list[tuple[float, ...]] = []
    measured: list[int] = []
    began = time.perf_counter()
    with _undisturbed(chain, images.device):
        for size in sorted(set(sizes)):
            if measured and time.perf_counter() - began > BUDGET_S:
                break
            repeats = -(-size // len(images))
            some = images.repeat(repeats, *[1] * (images.dim() - 1))[:size]
            times = [
                _time_blocks(chain, some, loss, autocast, timer, defers_weights)
                for _ in range(WARM_UPS + rounds)
            ][WARM_UPS:]
            forward.append(_medians([f for f, _, _ in times]))
            backward.append(_medians([b for _, b, _ in times]))
            weights.append(_medians([w for _, _, w in times]))
            measured.append(size)
    return Profile(
        names=tuple(block.name for block in chain.blocks),
        sizes=tuple(measured),
        forward=tuple(forward),
        backward=tuple(backward),
        weights=tuple(weights) if defers_weights else (),
    )


def _medians(rounds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(statistics.median(times) for times in zip(*rounds, strict=True))


def _time_blocks(
    chain: Chain,
    images: torch.Tensor,
    loss: Loss,
    autocast: Autocast,
    timer: Timer,
    defers_weights: bool,
) -> tuple[list[float], list[float], list[float]]:
    """Go through the chain once, each block forward and at once backward."""
    forward: list[float] = []
    backward: list[float] = []
    weights: list[float] = []
    carry: Carry = (images,)
    for position, block in enumerate(chain.blocks):
        last = position == len(chain) - 1
        empty = _time(_view, leaves(carry) if position else carry, autocast, timer)

        def run(carry: Carry, block: Block = block, last: bool = last) -> Carry:
            outputs = block(carry)
            return (loss(*outputs), *outputs) if last else outputs

        if defers_weights:
            entering = leaves(carry) if position else carry
            weights.append(_time_weights(run, entering, autocast, timer, last))
        outputs, *seconds = _time(run, carry, autocast, timer, only_first=last)
        for times, whole, around in zip((forward, backward), seconds, empty[1:], strict=True):
            times.append(max(whole - around, _LEAST_SHARE * whole))
        carry = leaves(outputs)
    return forward, backward, weights


def _time_weights(
    run: Callable[[Carry], Carry], carry: Carry, autocast: Autocast, timer: Timer, only_first: bool
) -> float:
    """Return the seconds of what can come after a backward pass."""
    later = DeferredWeights()

    def split(carry: Carry) -> Carry:
        with later.deferred():
            return run(carry)

    def rest() -> Carry:
        later.work_off(0)
        return ()

    with later.collecting(0):
        _time(split, carry, autocast, timer, only_first=only_first)
    return timer(rest)[1]


def _time(
    run: Callable[[Carry], Carry],
    carry: Carry,
    autocast: Autocast,
    timer: Timer,
    *,
    only_first: bool = False,
) -> tuple[Carry, float, float]:
    """Return what a block gives, and its seconds forward and backward."""

    def go() -> Carry:
        with autocast():
            return run(carry)

    outputs, forward = timer(go)
    roots = [tensor for tensor in outputs[: 1 if only_first else None] if tensor.requires_grad]
    grads = [torch.ones_like(root) for root in roots]

    def back() -> Carry:
        if roots:
            torch.autograd.backward(roots, grads)
        return ()

    return outputs, forward, timer(back)[1]


def _view(carry: Carry) -> Carry:
    return tuple(tensor.view_as(tensor) for tensor in carry)


def _thread_time(run: Callable[[], Carry]) -> tuple[Carry, float]:
    started = time.thread_time()
    result = run()
    return result, time.thread_time() - started


def _events(run: Callable[[], Carry]) -> tuple[Carry, float]:
    start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    result = run()
    end.record()
    end.synchronize()
    return result, start.elapsed_time(end) / 1e3


@contextmanager
def _undisturbed(chain: Chain, device: torch.device) -> Iterator[None]:
    """Put statistics, gradients and random streams back; one thread, so that its time is all."""
    modules = nn.ModuleList([block.module for block in chain.blocks])
    parameters, buffers = list(modules.parameters()), list(modules.buffers())
    grads, before = [p.grad for p in parameters], [b.clone() for b in buffers]
    threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    if not devices:
        torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices):
            for parameter in parameters:  # gradients add up, as those of micro-batches do
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            yield
    finally:
        torch.set_num_threads(threads)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
