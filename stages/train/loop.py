"""Loop: epochs of steps until the target, the last epoch or the time limit.

State is whole at two places only: between two steps, and between an epoch's last step and its
evaluation. Checkpoints, rollbacks and interruptions happen there and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.context import Context
from pipeline.errors import DataError, Interrupted, StageFailed
from pipeline.events import Progress
from stages.augment.loader import Batch, Loader
from stages.train.checkpoint import CheckpointFolder, Tensors
from stages.train.config import TrainConfig
from stages.train.evaluate import evaluate
from stages.train.learner import Learner
from stages.train.position import Epoch, Position
from stages.train.precision import FP32
from stages.train.snapshot import restore, snapshot

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
class Loop:
    """One run of training, from wherever it stands to its end."""

    config: TrainConfig
    ctx: Context
    learner: Learner
    train_loader: Loader
    eval_loader: Loader
    checkpoints: CheckpointFolder
    boards: tuple[Board, ...] = ()
    position: Position = field(default_factory=Position)
    best: Tensors = field(default_factory=dict)
    """The best weights so far, on the CPU; empty unless `weights: best`."""
    _clock: float = 0.0
    _saved_at: float = 0.0

    def fit(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: a stop was asked for; a checkpoint was written.
            StageFailed: the loss is not finite, and the guard's policy says stop.
        """
        while not self.position.finished:
            if self.train_epoch():
                self.end_epoch()
            else:
                self.roll_back()

    def train_epoch(self) -> bool:
        """Learn the rest of the epoch; return False as soon as the guard trips."""
        position, steps = self.position, len(self.train_loader)
        reported, reported_at = position.batch, 0.0
        with self.ctx.events.progress(
            f"epoch {position.epoch + 1}/{self.config.epochs}", total=steps - position.batch
        ) as bar:
            self._clock = time.perf_counter()
            for batch in self._rest_of_epoch():
                self.learner.step(batch)
                position.batch += 1
                position.images += len(batch.targets)
                self._tick()
                self._draw_curve()
                last = position.batch == steps
                if self._clock - reported_at > _REPORT_EVERY_S or last:
                    self._report(bar, position.batch - reported)
                    reported, reported_at = position.batch, self._clock
                if self._guard_is_due(last) and self._look_at_guard():
                    return False
                if last:
                    continue  # the loader has to see the end of its epoch before its state is taken
                if self.ctx.stop.requested:
                    self.save()
                    self.ctx.stop.check()
                if self._checkpoint_is_due():
                    self.save()
                if self._time_is_up():
                    break
        return True

    def _rest_of_epoch(self) -> Iterator[Batch]:
        position, steps = self.position, len(self.train_loader)
        if position.batch == steps:  # resumed between the last step and the evaluation
            return
        iterator = iter(self.train_loader)
        while True:
            asked_at = time.perf_counter()
            batch = next(iterator, None)
            position.wait_s += time.perf_counter() - asked_at
            if batch is None:
                break
            yield batch
        if position.batch < steps:
            raise DataError(
                f"train: the loader ended after {position.batch} of {steps} batches. "
                "The data set has changed since the augment stage; run that again."
            )

    def end_epoch(self) -> None:
        """Evaluate, keep the best weights, and decide whether to go on."""
        position, learner = self.position, self.learner
        row = Epoch(
            epoch=position.epoch + 1,
            step=learner.num_steps,
            loss=learner.mean_loss,
            lr=learner.schedule.lr,
            images_per_s=position.images / max(position.train_s, 1e-9),
        )
        is_last = row.epoch == self.config.epochs or self._time_is_up()
        if is_last or row.epoch % self.config.eval_every == 0:
            try:
                self._evaluate(row)
            except Interrupted:
                self.save()
                raise
        self._keep_best(row)
        learner.take_loss()
        position.curve_sum, position.curve_samples = 0.0, 0
        position.history.append(row)
        position.epoch, position.batch = position.epoch + 1, 0
        position.finished = self._reason_to_finish(row, is_last)
        self._tell(row)
        if position.finished or self._checkpoint_is_due():
            self.save()

    def _evaluate(self, row: Epoch) -> None:
        label = f"eval {row.epoch}/{self.config.epochs}"
        answer = evaluate(self.learner.module, self.eval_loader, FP32, self.ctx, label)
        row.top1, row.eval_loss = answer.top1, answer.loss
        if self.learner.ema is not None:
            averaged = evaluate(
                self.learner.ema.module, self.eval_loader, FP32, self.ctx, f"{label} EMA"
            )
            row.ema_top1, row.ema_loss = averaged.top1, averaged.loss

    def _keep_best(self, row: Epoch) -> None:
        if self.config.weights != "best":
            return
        candidates = [("", self.learner.module, row.top1, row.eval_loss)]
        if self.learner.ema is not None:
            candidates.append(("EMA at ", self.learner.ema.module, row.ema_top1, row.ema_loss))
        for prefix, module, top1, loss in candidates:
            if top1 is None or loss is None:
                continue
            if (top1, -loss) > (self.position.best_top1, -self.position.best_loss):
                self.position.best_top1, self.position.best_loss = top1, loss
                self.position.best_name = f"{prefix}epoch {row.epoch}"
                self.best = {
                    name: tensor.detach().cpu().clone()
                    for name, tensor in module.state_dict().items()
                }

    def _reason_to_finish(self, row: Epoch, is_last: bool) -> str:
        reached = {
            "best": self.position.best_top1,
            "last": row.top1 if row.top1 is not None else -1.0,
            "ema": row.ema_top1 if row.ema_top1 is not None else -1.0,
        }[self.config.weights]
        if self.config.target is not None and reached >= self.config.target.top1:
            return "target"
        if not is_last:
            return ""
        return "epochs" if row.epoch == self.config.epochs else "max_time"

    def roll_back(self) -> None:
        """Act on NaN or Inf: stop, or go back to the last good checkpoint with a lower rate.

        Raises:
            StageFailed: the policy is ``stop``, or it has rolled back too often.
        """
        guard, policy, step = self.learner.guard, self.config.guard, self.learner.num_steps
        rollbacks, scale = guard.rollbacks + 1, self.learner.schedule.scale * policy.lr_factor
        where = f"train: the loss or a gradient was not finite around step {step}"
        if policy.on_nonfinite == "stop":
            raise StageFailed(
                f"{where}, and guard.on_nonfinite is 'stop'. Lower optimizer.lr, set grad_clip, "
                "use precision: bf16 or fp32, or set guard: {on_nonfinite: rollback}."
            )
        if rollbacks > policy.max_rollbacks:
            raise StageFailed(
                f"{where} again after {policy.max_rollbacks} rollback(s) (guard.max_rollbacks). "
                "Lower optimizer.lr, set grad_clip, or use precision: fp32."
            )
        train_s = self.position.train_s
        self.resume()
        self.position.train_s = train_s
        guard.rollbacks, self.learner.schedule.scale = rollbacks, scale
        self.ctx.events.warning(
            f"{where}: back to step {self.learner.num_steps}, learning rate x {scale:g} "
            f"(rollback {rollbacks} of {policy.max_rollbacks})."
        )
        self.ctx.events.emit(
            "rollback", at_step=step, to_step=self.learner.num_steps, lr_scale=scale
        )
        self.save()

    def resume(self) -> bool:
        """Go back to the newest whole checkpoint, if there is one."""
        checkpoint = self.checkpoints.load_newest()
        if checkpoint is None:
            return False
        self.position, self.best = restore(checkpoint, self.learner, self.train_loader)
        self._saved_at = time.monotonic()
        self.ctx.events.info(
            f"resumed at step {self.learner.num_steps} (epoch {self.position.epoch + 1})"
        )
        return True

    def save(self) -> None:
        """Write a checkpoint of this very moment."""
        weights, state = snapshot(self.learner, self.train_loader, self.position, self.best)
        self.checkpoints.save(self.learner.num_steps, weights, state)
        self._saved_at = time.monotonic()

    def _checkpoint_is_due(self) -> bool:
        every = self.config.checkpoint.every_steps
        if every and self.learner.num_steps % every == 0:
            return True
        return time.monotonic() - self._saved_at > self.config.checkpoint.every_seconds

    def _guard_is_due(self, last: bool) -> bool:
        # A checkpoint has to be known good, so the look comes before each of them.
        every = self.config.guard.check_every
        return last or self.learner.num_steps % every == 0 or self._checkpoint_is_due()

    def _look_at_guard(self) -> bool:
        new, tripped = self.learner.look()
        if new and not tripped:
            self.ctx.events.warning(
                f"train: {new} step(s) before step {self.learner.num_steps} had a loss or gradient "
                "that was not finite; they were skipped (guard.tolerate)."
            )
        return tripped

    def _time_is_up(self) -> bool:
        limit = self.config.max_time
        return limit is not None and self.position.train_s >= limit

    def _tick(self) -> None:
        now = time.perf_counter()
        self.position.train_s += now - self._clock
        self._clock = now

    def _draw_curve(self) -> None:
        position, learner = self.position, self.learner
        if learner.num_steps % self._steps_per_point:
            return
        total, samples = float(learner.loss_sum.item()), learner.num_samples
        loss = (total - position.curve_sum) / max(samples - position.curve_samples, 1)
        position.curve_sum, position.curve_samples = total, samples
        position.curve.append((learner.num_steps, loss))
        for board in self.boards:
            board.point(learner.num_steps, loss, learner.schedule.lr)

    @property
    def _steps_per_point(self) -> int:
        return max(1, self.config.epochs * len(self.train_loader) // CURVE_POINTS)

    def _report(self, bar: Progress, steps: int) -> None:
        position = self.position
        rate = position.images / max(position.train_s, 1e-9)
        stall = position.wait_s / max(position.train_s, 1e-9)
        note = f"loss {self.learner.mean_loss:.3f} · {rate:,.0f} img/s · input stall {stall:.0%}"
        bar.advance(steps, note=note)

    def _tell(self, row: Epoch) -> None:
        self.ctx.events.emit(
            "epoch", epoch=row.epoch, step=row.step, loss=row.loss, lr=row.lr, top1=row.top1,
            eval_loss=row.eval_loss, ema_top1=row.ema_top1, images_per_s=row.images_per_s,
        )  # fmt: skip
        for board in self.boards:
            board.epoch(row)
