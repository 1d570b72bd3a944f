"""Our loop: the train stage's own, over batches that lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from benchmarks.clock import Stopwatch
from benchmarks.measure import Turn
from benchmarks.networks import Network
from benchmarks.trainees import DECAY, LEARNING_RATE, Learned
from pipeline.context import Context
from pipeline.device import CPU
from stages.augment.loader import Batch
from stages.train.allocator import freed_memory_kept
from stages.train.checkpoint import CheckpointFolder
from stages.train.config import TrainConfig
from stages.train.learner import build_learner
from stages.train.loop import Loop
from stages.train.position import Position
from stages.train.precision import Name, Precision
from stages.train.quick_convolutions import quicken
from stages.train.reproducible import reproducible
from stages.train.teller import Teller

_EPOCHS = 1000
_NEVER_S = 1e12


@dataclass
class MemoryLoader:
    """A `Loader` over batches held in memory, which it repeats until the epoch is over."""

    batches: Sequence[Batch]
    steps: int = 1
    batch_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.batch_size = len(self.batches[0].targets)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return self.steps * self.batch_size

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
    loader: MemoryLoader
    threads: int

    def learn(self, steps: int) -> Learned:
        """Train one epoch of so many steps, with the stage's own switches around it."""
        loop = self.loop
        self.loader.steps = loop.teller.steps_per_epoch = steps
        loop.position = Position()
        switches = reproducible(CPU, seed=0, deterministic=True, threads=self.threads)
        with switches, freed_memory_kept():
            watch = Stopwatch()
            with loop.teller.training(loop.learner):
                assert loop.train_epoch(), "the guard has tripped"
            turn = Turn(steps, watch.wall_s, watch.cpu_s)
        return Learned(loop.learner.take_loss(), turn)


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
        "ema": {"decay": DECAY} if ema else False,
    }
    config = TrainConfig.model_validate(settings)
    loader = MemoryLoader(batches)
    module = network.build()
    quicken(module)
    choice = Precision(name=precision, reason="benchmark")
    learner = build_learner(module, config, choice, CPU, steps_per_epoch=1)
    context = Context(dir=folder)
    checkpoints = CheckpointFolder(
        folder=folder / f"{precision}-{ema}", key="benchmark", keep=1, events=context.events
    )
    teller = Teller(context.events, config.epochs, 1)
    loop = Loop(config, context, learner, loader, loader, checkpoints, teller)
    return Ours(loop, loader, threads)
