"""Trainees: the same network and batches, trained by loops that are written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import cross_entropy

from benchmarks.measure import Turn
from benchmarks.metered import Metered
from benchmarks.networks import CLASSES, MEAN, Network
from stages.augment.loader import Batch
from stages.train.models.classifier import ImageClassifier

LEARNING_RATE = 1e-3
DECAY = 0.999
"""Of the moving average of the weights."""
_DISTINCT_BATCHES = 4

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of some steps."""

    loss: float
    """Mean over all steps, those that were not timed included."""
    turn: Turn


class Trainee(Protocol):
    """A network on its way."""

    def learn(self, steps: int) -> Learned:
        """Take so many steps, after one that is not timed."""
        ...


def random_batches(network: Network, batch_size: int) -> list[Batch]:
    """Return a few batches of noise."""
    draw = torch.Generator().manual_seed(1)
    shape = (batch_size, network.size, network.size, len(MEAN))
    return [
        Batch(
            inputs=torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw),
            targets=torch.randint(0, CLASSES, (batch_size,), generator=draw),
            index=torch.arange(batch_size),
        )
        for _ in range(_DISTINCT_BATCHES)
    ]


def fast_module(network: Network) -> tuple[ImageClassifier, torch.optim.Optimizer]:
    """Return the network with channels last and a fused optimizer, as every fast side has them."""
    module = network.build().train()
    module.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
    return module, optimizer


@dataclass(frozen=True, slots=True)
class WeightAverage:
    """A moving average of the weights, as a hand-written loop keeps it."""

    averaged: list[torch.Tensor]
    weights: list[torch.Tensor]

    @classmethod
    def of(cls, module: torch.nn.Module) -> WeightAverage:
        """List the floats of a network and of a copy."""
        own, copied = module.state_dict().values(), copy.deepcopy(module).state_dict().values()
        return cls(*([v for v in kind if v.is_floating_point()] for kind in (copied, own)))

    def update(self) -> None:
        """Move towards the weights."""
        torch._foreach_lerp_(self.averaged, self.weights, weight=1 - DECAY)


@dataclass
class ByHand:
    """A loop with nothing in it but the step: no schedule, no guard, no progress."""

    module: torch.nn.Module
    forward: Forward
    optimizer: torch.optim.Optimizer
    batches: Metered
    bf16: bool
    average: WeightAverage | None = None

    def learn(self, steps: int) -> Learned:
        """Take so many steps."""
        self.batches.steps = steps
        total = torch.zeros(())
        for batch in self.batches:
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
                logits = self.forward(batch.inputs)
                loss = cross_entropy(logits.float(), batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update()
            total += loss.detach()
        return Learned(float(total) / len(self.batches), self.batches.turn)


def plain(network: Network, batches: Sequence[Batch]) -> ByHand:
    """Return what a first script looks like: fp32, channels first, torch's default optimizer."""
    module = network.build().train()
    module.channels_last = False
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=0.0)
    return ByHand(module, module, optimizer, Metered(batches), bf16=False)


def bare(
    network: Network,
    batches: Sequence[Batch],
    *,
    bf16: bool,
    compiled: bool = False,
    average: bool = False,
) -> ByHand:
    """Return the fastest loop by hand."""
    module, optimizer = fast_module(network)
    forward = torch.compile(module) if compiled else module
    kept = WeightAverage.of(module) if average else None
    return ByHand(module, forward, optimizer, Metered(batches), bf16, kept)
