"""Teller: says how training goes, to the progress bar, the curve of the report, and the boards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pipeline.events import EventLog, Progress
from stages.train.learner import Learner
from stages.train.position import Epoch, Position

CURVE_POINTS = 200
_REPORT_EVERY_S = 0.1


class Board(Protocol):
    """Where curves are drawn while they grow."""

    def point(self, step: int, loss: float, lr: float) -> None:
        """Take the training loss at a step."""
        ...

    def epoch(self, row: Epoch) -> None:
        """Take what an epoch measured."""
        ...


@dataclass
class Teller:
    """Reads figures from the device as rarely as a person or a chart needs them."""

    events: EventLog
    epochs: int
    steps_per_epoch: int
    noun: str = "image"
    """What a person calls one sample."""
    boards: tuple[Board, ...] = ()
    _bar: Progress | None = None
    _shown: int = 0
    _shown_at: float = 0.0

    @contextmanager
    def training(self, learner: Learner) -> Iterator[None]:
        """Keep a bar over all steps that are left."""
        self._shown = learner.num_steps
        left = self.epochs * self.steps_per_epoch - learner.num_steps
        with self.events.progress("train", total=left) as self._bar:
            yield
        self._bar = None

    def step(self, learner: Learner, position: Position) -> None:
        """Tell about a step, at most ten times a second, and at the last of an epoch."""
        self._draw_curve(learner, position)
        now = time.perf_counter()
        is_last = position.batch == self.steps_per_epoch
        if self._bar is None or not (is_last or now - self._shown_at > _REPORT_EVERY_S):
            return
        rate = position.images / max(position.train_s, 1e-9)
        note = (
            f"epoch {position.epoch + 1}/{self.epochs} · loss {learner.mean_loss:.3f} · "
            f"{rate:,.0f} {self.noun}s/s · input stall {position.input_stall:.0%}"
        )
        self._bar.advance(learner.num_steps - self._shown, note=note)  # negative after a rollback
        self._shown, self._shown_at = learner.num_steps, now

    def _draw_curve(self, learner: Learner, position: Position) -> None:
        every = max(1, self.epochs * self.steps_per_epoch // CURVE_POINTS)
        if learner.num_steps % every:
            return
        total, samples = float(learner.loss_sum.item()), learner.num_samples
        loss = (total - position.curve_sum) / max(samples - position.curve_samples, 1)
        position.curve_sum, position.curve_samples = total, samples
        position.curve.append((learner.num_steps, loss))
        for board in self.boards:
            board.point(learner.num_steps, loss, learner.schedule.lr)

    def epoch(self, row: Epoch) -> None:
        """Tell what an epoch measured."""
        self.events.emit(
            "epoch", epoch=row.epoch, step=row.step, loss=row.loss, lr=row.lr, top1=row.top1,
            eval_loss=row.eval_loss, ema_top1=row.ema_top1, images_per_s=row.images_per_s,
            input_stall=row.input_stall, stalled_steps=row.stalled_steps,
        )  # fmt: skip
        for board in self.boards:
            board.epoch(row)
