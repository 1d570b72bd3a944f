"""Schedule: the learning rate as a function of the step alone, so that it has no state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2

from stages.train.config import ScheduleConfig

_FALLS = "cosine", "poly"
"""Shapes that fall over the rest of the run; ``step`` cuts at epochs of the whole."""


class OneCycle(Scheduler):
    """Climb in a line to the peak, then fall in a line to the lowest rate at the last step."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, steps: int, warmup: int, lowest: float
    ) -> None:
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.steps, self.warmup, self.lowest = steps, warmup, lowest

    def _get_lr(self, t: int) -> list[float]:
        if t < self.warmup:
            return [peak * (t + 1) / self.warmup for peak in self.base_values]
        share_left = max(self.steps - t, 0) / max(self.steps - self.warmup, 1)
        return [self.lowest + (peak - self.lowest) * share_left for peak in self.base_values]


@dataclass
class Schedule:
    """Sets the learning rate of every parameter group before a step."""

    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    scale: float = 1.0
    """Below 1 after a rollback."""

    def apply(self, step: int) -> None:
        """Set the rate for this step (0 is the first)."""
        rates = self.scheduler._get_lr(step)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self.scale * group.get("lr_scale", 1.0)  # a layer's, if it has one

    def rate_at(self, step: int) -> float:
        """Return the rate planned for a step, before any rollback."""
        return float(self.scheduler._get_lr(step)[0])

    @property
    def lr(self) -> float:
        """The rate in use, of the layers that learn fastest."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: ScheduleConfig, *, epochs: int, steps_per_epoch: int
) -> Schedule:
    """Build the schedule over the whole run."""
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if config.name == "onecycle":
        one = OneCycle(
            optimizer, steps=epochs * steps_per_epoch, warmup=warmup_steps, lowest=config.min_lr
        )
        return Schedule(optimizer, one)
    lr = float(optimizer.param_groups[0]["lr"])
    falls = config.name in _FALLS
    scheduler, _ = create_scheduler_v2(
        optimizer,
        config.name,
        num_epochs=max(1, epochs * steps_per_epoch - (warmup_steps if falls else 0)),
        decay_epochs=max(1, round(config.decay_epochs * steps_per_epoch)),
        decay_rate=config.decay_rate,
        min_lr=config.min_lr,
        warmup_epochs=warmup_steps,
        warmup_prefix=falls,  # the fall starts at the peak, however long the climb was
        # timm starts the climb at this rate; one part of it, so that the first step already learns.
        warmup_lr=lr / max(warmup_steps, 1),
        step_on_epochs=False,
        updates_per_epoch=1,  # its "epochs" are our steps
    )
    return Schedule(optimizer, scheduler)
