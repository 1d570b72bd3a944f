"""Loop: epochs of steps until the target, the last epoch or the time limit.

State is whole at two places only: between two steps, and between an epoch's last step and its
evaluation. Checkpoints, rollbacks and interruptions happen there and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from pipeline.context import Context
from pipeline.errors import DataError, Interrupted, StageFailed
from pipeline.report.blocks import Block
from stages.augment.loader import Batch, Loader
from stages.train.checkpoint import CheckpointFolder, Tensors
from stages.train.config import TrainConfig
from stages.train.evaluate import Evaluation, evaluate
from stages.train.layout import Wish
from stages.train.learner import Learner
from stages.train.position import Epoch, Position
from stages.train.precision import FP32, Precision
from stages.train.profile import Profiler
from stages.train.snapshot import restore, snapshot
from stages.train.teller import Teller


@dataclass
class Loop:
    """One run of training, from wherever it stands to its end."""

    config: TrainConfig
    ctx: Context
    learner: Learner
    train_loader: Loader
    eval_loader: Loader
    checkpoints: CheckpointFolder
    teller: Teller
    position: Position = field(default_factory=Position)
    best: Tensors = field(default_factory=dict)
    """The best weights so far, on the CPU; empty unless `weights: best`."""
    profiler: Profiler | None = None
    told: tuple[Block, ...] = ()
    """What a pipeline adds to the chapter."""
    _saved_at: float = 0.0

    def fit(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: a stop was asked for; a checkpoint was written.
            StageFailed: the loss is not finite, and the guard's policy says stop.
        """
        with self.teller.training(self.learner):
            while not self.position.finished:
                if self.train_epoch():
                    self.end_epoch()
                else:
                    self.roll_back()

    def train_epoch(self) -> bool:
        """Learn the rest of the epoch; return False as soon as the guard trips."""
        self.learner.begin_epoch(self.position.epoch)
        for batch in self._rest_of_epoch():
            self.learner.step(batch)
            self.position.batch += 1
            self.position.images += len(batch.targets) * self.learner.layout.shard[1]
            self.teller.step(self.learner, self.position)
            if self.profiler is not None:
                self.profiler.step()
            last = self.position.batch == len(self.train_loader)
            wish = Wish(save=self._checkpoint_is_due(), leave=self._time_is_up())
            wish = self.learner.layout.agree(wish, self.ctx.stop)
            # A checkpoint has to be known good, so the guard looks before each of them.
            if (wish.save or last or self._guard_is_due()) and self._look_at_guard():
                return False
            if last:
                continue  # the loader has to see its epoch end before its state is taken
            if wish.save or self.ctx.stop.requested:
                self.save()
                self.ctx.stop.check()
            if wish.leave:
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
            given_at = time.perf_counter()
            if batch is None:
                break
            yield batch
            position.add_time(given_at - asked_at, time.perf_counter() - asked_at)
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
            input_stall=position.input_stall,
            stalled_steps=position.stalled_share,
        )
        wish = Wish(save=self._checkpoint_is_due(), leave=self._time_is_up())
        wish = learner.layout.agree(wish, self.ctx.stop)
        is_last = row.epoch == self.config.epochs or wish.leave
        if is_last or row.epoch % self.config.eval_every == 0:
            try:
                self._evaluate(row)
            except Interrupted:
                self.save()
                raise
        learner.take_loss()
        position.end_epoch(row)
        position.finished = self._reason_to_finish(row, is_last)
        self.teller.epoch(row)
        if position.finished or wish.save:
            self.save()

    def _evaluate(self, row: Epoch) -> None:
        """Measure model and average, then, with nothing left to interrupt, keep the better."""
        learner = self.learner
        plain = self.measure(learner.module, FP32, "eval")
        averaged = None
        if learner.ema is not None:
            averaged = self.measure(learner.ema.module, FP32, "eval EMA")
        row.top1, row.eval_loss = plain.top1, plain.loss
        self._keep_if_best(f"epoch {row.epoch}", row.top1, row.eval_loss, learner.module)
        if averaged is not None and learner.ema is not None:
            row.ema_top1, row.ema_loss = averaged.top1, averaged.loss
            name = f"EMA at epoch {row.epoch}"
            self._keep_if_best(name, row.ema_top1, row.ema_loss, learner.ema.module)

    def measure(self, module: torch.nn.Module, precision: Precision, label: str) -> Evaluation:
        """Evaluate a network over the whole eval split, on all ranks together.

        Raises:
            Interrupted: a stop was asked for; nothing of the training state was touched.
        """
        layout = self.learner.layout
        return evaluate(module, self.eval_loader, precision, self.ctx, label, layout)

    def _keep_if_best(self, name: str, top1: float, loss: float, module: torch.nn.Module) -> None:
        position = self.position
        is_better = (top1, -loss) > (position.best_top1, -position.best_loss)
        if self.config.weights == "best" and is_better:
            position.best_top1, position.best_loss, position.best_name = top1, loss, name
            state = module.state_dict().items()
            self.best = {key: self.learner.layout.kept(tensor) for key, tensor in state}

    def _reason_to_finish(self, row: Epoch, is_last: bool) -> str:
        reached = {"best": self.position.best_top1, "last": row.top1, "ema": row.ema_top1}
        top1, target = reached[self.config.weights], self.config.target
        if target is not None and top1 is not None and top1 >= target.top1:
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
        self.position.train_s = train_s  # the time limit counts lost time too
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
        layout = self.learner.layout
        checkpoint = self.checkpoints.load_newest() if layout.is_first else None
        name = layout.first_says(checkpoint.name if checkpoint else "")
        if not name:
            return False
        self.position, self.best = restore(
            checkpoint or self.checkpoints.load(name),
            self.learner,
            self.train_loader,
            self.ctx.seed,
        )
        self._saved_at = time.monotonic()
        self.ctx.events.info(
            f"resumed at step {self.learner.num_steps} (epoch {self.position.epoch + 1})"
        )
        return True

    def save(self) -> None:
        """Write a checkpoint of this very moment."""
        weights, state = snapshot(self.learner, self.train_loader, self.position, self.best)
        if self.learner.layout.is_first:
            self.checkpoints.save(self.learner.num_steps, weights, state)
        self._saved_at = time.monotonic()

    def _checkpoint_is_due(self) -> bool:
        every = self.config.checkpoint.every_steps
        if every and self.learner.num_steps % every == 0:
            return True
        return time.monotonic() - self._saved_at > self.config.checkpoint.every_seconds

    def _guard_is_due(self) -> bool:
        return self.learner.num_steps % self.config.guard.check_every == 0

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
