"""Position: how far training has come, as plain numbers that go into every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TypeAlias

from stages.train.stall import BUCKETS, TOLERABLE, bucket_of

Plain: TypeAlias = "str | int | float | bool | list[Plain] | dict[str, Plain] | None"


@dataclass(kw_only=True)
class Epoch:
    """One row of the history: what was measured when an epoch was over."""

    epoch: int
    """Counted from 1."""
    step: int
    loss: float
    """Mean training loss over the epoch."""
    lr: float
    top1: float | None = None
    """Of the model on the eval split; None when this epoch was not evaluated."""
    eval_loss: float | None = None
    ema_top1: float | None = None
    ema_loss: float | None = None
    images_per_s: float = 0.0
    """0 when the epoch was resumed in its middle."""
    input_stall: float = 0.0
    """Share of the training time up to here that was spent waiting for the loader."""
    stalled_steps: float = 0.0
    """Share of the steps up to here that waited for more than a tolerable part of their time."""


@dataclass(kw_only=True)
class Position:
    """How far training has come."""

    epoch: int = 0
    """Epochs that are over."""
    batch: int = 0
    """Batches learned in the epoch that is not over."""
    train_s: float = 0.0
    """Seconds spent in training steps."""
    wait_s: float = 0.0
    """Seconds of those spent waiting for the loader."""
    images: int = 0
    """Images learned in those seconds."""
    waits: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """Steps by how long they waited for the loader, in the buckets of `stall`."""
    stalled: int = 0
    """Steps that waited for more than a tolerable share of their time."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean training loss since the point before)."""
    curve_sum: float = 0.0
    """The epoch's sum of losses at the last point of the curve."""
    curve_samples: int = 0
    """The epoch's samples at that point."""
    history: list[Epoch] = field(default_factory=list)
    finished: str = ""
    """Why training is over (``target``, ``epochs``, ``max_time``); empty while it goes on."""
    best_top1: float = -1.0
    best_loss: float = float("inf")
    best_name: str = ""
    """Where the best weights come from: ``epoch 3`` or ``EMA at epoch 3``."""

    def add_time(self, wait_s: float, step_s: float) -> None:
        """Add a step that took so long, waiting for the loader included."""
        self.wait_s += wait_s
        self.train_s += step_s
        self.waits[bucket_of(wait_s)] += 1
        self.stalled += wait_s > TOLERABLE * step_s

    @property
    def input_stall(self) -> float:
        """Share of the training time that was spent waiting for the loader."""
        return self.wait_s / max(self.train_s, 1e-9)

    @property
    def stalled_share(self) -> float:
        """Share of the steps that waited too long."""
        return self.stalled / max(sum(self.waits), 1)

    def end_epoch(self, row: Epoch) -> None:
        """File what an epoch measured and stand at the start of the next."""
        self.history.append(row)
        self.epoch, self.batch = self.epoch + 1, 0
        self.curve_sum, self.curve_samples = 0.0, 0

    def state_dict(self) -> dict[str, Plain]:
        """Return everything as plain values."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Plain]) -> Position:
        """Build it again from plain values."""
        position = cls(**state)  # type: ignore[arg-type]
        position.curve = [(int(step), float(loss)) for step, loss in position.curve]
        position.history = [Epoch(**row) for row in position.history]  # type: ignore[arg-type]
        return position
