"""Our loop: the train stage's own, over batches that lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.metered import Metered
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
from stages.train.quicken import quicken
from stages.train.reproducible import reproducible
from stages.train.teller import Teller

_EPOCHS = 1000
_NEVER_S = 1e12


@dataclass(frozen=True, slots=True)
class MemoryLoader:
    """A `Loader` over metered batches; one run through them is an epoch."""

    metered: Metered

    @property
    def batch_size(self) -> int:
        """Samples of a batch."""
        return len(self.metered.batches[0].targets)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return len(self) * self.batch_size

    def __len__(self) -> int:
        return len(self.metered)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.metered)

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
    batches: Metered
    threads: int

    def learn(self, steps: int) -> Learned:
        """Train one epoch of so many steps, with the stage's own switches around it."""
        loop = self.loop
        self.batches.steps = steps
        loop.teller.steps_per_epoch = len(self.batches)
        loop.position = Position()
        switches = reproducible(CPU, seed=0, deterministic=True, threads=self.threads)
        with switches, freed_memory_kept(), loop.teller.training(loop.learner):
            assert loop.train_epoch(), "the guard has tripped"
            self.batches.finish()
        return Learned(loop.learner.take_loss(), self.batches.turn)


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
    metered = Metered(batches)
    loader = MemoryLoader(metered)
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
    return Ours(loop, metered, threads)
