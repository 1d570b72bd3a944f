"""Trainees: the same network and batches, trained by our loop and by loops written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol

import torch
from torch.nn.functional import cross_entropy

from benchmarks.networks import CLASSES, MEAN, Network
from pipeline.context import Context
from pipeline.device import CPU
from stages.augment.loader import Batch
from stages.train.checkpoint import CheckpointFolder
from stages.train.config import TrainConfig
from stages.train.learner import build_learner
from stages.train.loop import Loop
from stages.train.position import Position
from stages.train.precision import Name, Precision
from stages.train.reproducible import reproducible
from stages.train.teller import Teller

LEARNING_RATE = 1e-3
EPOCH_STEPS = 2
"""Steps of an epoch; every turn is a multiple of it."""
_DISTINCT_BATCHES = 4
_EPOCHS = 1000
"""Of the run that the loop believes to be in: it draws its curve every 10 steps."""
_NEVER_S = 1e12

Forward = Callable[[torch.Tensor], torch.Tensor]


class Trainee(Protocol):
    """A network on its way."""

    def learn(self, steps: int) -> float:
        """Take so many steps and return the mean loss."""
        ...


def random_batches(network: Network, batch_size: int) -> list[Batch]:
    """Return a few batches of noise."""
    draw = torch.Generator().manual_seed(1)
    shape = (batch_size, network.size, network.size, len(MEAN))
    return [
        Batch(
            images=torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw),
            targets=torch.randint(0, CLASSES, (batch_size,), generator=draw),
            index=torch.arange(batch_size),
        )
        for _ in range(_DISTINCT_BATCHES)
    ]


@dataclass
class ByHand:
    """A loop with nothing in it but the step: no schedule, no average, no guard, no progress."""

    module: torch.nn.Module
    forward: Forward
    optimizer: torch.optim.Optimizer
    batches: Sequence[Batch]
    bf16: bool

    def learn(self, steps: int) -> float:
        """Take so many steps and return the mean loss."""
        total = torch.zeros(())
        for batch in islice(cycle(self.batches), steps):
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
                logits = self.forward(batch.images)
                loss = cross_entropy(logits.float(), batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
            total += loss.detach()
        return float(total) / steps


def plain(network: Network, batches: Sequence[Batch]) -> ByHand:
    """Return what a first script looks like: fp32, channels first, torch's default optimizer."""
    module = network.build().train()
    module.channels_last = False
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=0.0)
    return ByHand(module, module, optimizer, batches, bf16=False)


def bare(
    network: Network, batches: Sequence[Batch], *, bf16: bool, compiled: bool = False
) -> ByHand:
    """Return the fastest loop by hand: channels last and a fused optimizer, as ours has them."""
    module = network.build().train()
    module.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
    forward = torch.compile(module) if compiled else module
    return ByHand(module, forward, optimizer, batches, bf16)


@dataclass
class MemoryLoader:
    """A `Loader` over batches held in memory, which it repeats until the epoch is over."""

    batches: Sequence[Batch]
    steps: int
    batch_size: int = field(init=False)
    num_samples: int = field(init=False)

    def __post_init__(self) -> None:
        self.batch_size = len(self.batches[0].targets)
        self.num_samples = self.steps * self.batch_size

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return islice(cycle(self.batches), self.steps)

    def state_dict(self) -> Mapping[str, str | int]:
        """Return nothing: every epoch is the same."""
        return {}

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Take nothing back."""

    def close(self) -> None:
        """Free nothing."""


@dataclass(frozen=True, slots=True)
class Ours:
    """The train stage's own loop, with schedule, guard, metrics, progress and, if wanted, EMA."""

    loop: Loop
    threads: int

    def learn(self, steps: int) -> float:
        """Train whole epochs of so many steps together, and return the mean loss.

        The switches for determinism are the stage's own; setting them costs a fraction of a
        millisecond, once.
        """
        loop = self.loop
        with (
            reproducible(CPU, seed=0, deterministic=True, threads=self.threads),
            loop.teller.training(loop.learner),
        ):
            for _ in range(steps // len(loop.train_loader)):
                loop.position = Position()
                assert loop.train_epoch(), "the guard has tripped"
        return loop.learner.take_loss()


def ours(
    network: Network,
    batches: Sequence[Batch],
    folder: Path,
    *,
    precision: Name,
    ema: bool,
    threads: int,
) -> Ours:
    """Return our loop as the train stage sets it up; it never gets to write a checkpoint."""
    settings = {
        "epochs": _EPOCHS,
        "optimizer": {"name": "adamw", "lr": LEARNING_RATE, "weight_decay": 0.0},
        "schedule": {"name": "constant", "warmup_epochs": 0},
        "checkpoint": {"every_seconds": _NEVER_S},
        **({} if ema else {"ema": False}),
    }
    config = TrainConfig.model_validate(settings)
    loader = MemoryLoader(batches, EPOCH_STEPS)
    choice = Precision(name=precision, reason="benchmark")
    learner = build_learner(network.build(), config, choice, CPU, EPOCH_STEPS)
    context = Context(dir=folder)
    checkpoints = CheckpointFolder(
        folder=folder / f"{precision}-{ema}", key="benchmark", keep=1, events=context.events
    )
    teller = Teller(context.events, config.epochs, EPOCH_STEPS)
    loop = Loop(config, context, learner, loader, loader, checkpoints, teller)
    return Ours(loop, threads)
