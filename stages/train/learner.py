"""Learner: a network with everything that one training step touches, and that step.

learner.step(batch)        # forward, loss, backward, clip, update, average
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from timm.utils.model_ema import ModelEmaV3
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pipeline.device import Device
from stages.augment.loader import Batch
from stages.train.config import TrainConfig
from stages.train.guard import Guard
from stages.train.models.classifier import ImageClassifier
from stages.train.objective import objective
from stages.train.optim import build_optimizer, skips_by_itself
from stages.train.precision import Precision
from stages.train.schedule import Schedule, build_schedule

SMALLEST_SCALE = 2.0**-10
"""Gradients that overflow fp16 even when scaled down to this are infinite by themselves."""

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Learner:
    """What learns. `step` neither prints, waits for the device, nor reads a number from it."""

    module: ImageClassifier
    forward: Forward
    """The module, compiled or not; its weights are the module's."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None
    guard: Guard
    precision: Precision
    device: Device
    label_smoothing: float
    grad_clip: float | None
    num_steps: int = 0
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """Sum of finite losses since `take_loss`, each times its batch size; on the device."""
    num_samples: int = 0

    def step(self, batch: Batch) -> None:
        """Learn from one batch; a step whose loss or gradient is not finite changes nothing."""
        self.schedule.apply(self.num_steps)
        buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]

        with self.precision.autocast(self.device):
            logits = self.forward(batch.images)
            loss = objective(logits, batch.targets, batch.mix, self.label_smoothing)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)

        weights = [p for p in self.module.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in weights if p.grad is not None])
        if self.grad_clip is not None:
            clip_grads_with_norm_(weights, self.grad_clip, norm)
        finite = loss.detach().isfinite() & norm.isfinite()

        self._update(finite)
        for buffer, before in buffers:  # statistics of a bad batch are as bad as its gradient
            buffer.copy_(torch.where(finite, buffer, before))
        self.optimizer.zero_grad(set_to_none=True)
        self.num_steps += 1
        if self.ema is not None:
            self.ema.update(self.module, step=self.num_steps)
        self._count(loss.detach(), finite, len(batch.targets))

    def _update(self, finite: torch.Tensor) -> None:
        if self.scaler.is_enabled():
            self.scaler.step(
                self.optimizer
            )  # skips by its own search for Inf, then lowers the scale
            self.scaler.update()
        elif skips_by_itself(self.optimizer):
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif finite:  # this optimizer has no fused kernel: the one place that waits for the device
            self.optimizer.step()

    def _count(self, loss: torch.Tensor, finite: torch.Tensor, samples: int) -> None:
        # By infinite gradients a scaler finds its scale; there, only an infinite loss is a fault.
        loss_is_finite = loss.isfinite()
        self.guard.record(~(loss_is_finite if self.scaler.is_enabled() else finite))
        self.loss_sum.add_(torch.where(loss_is_finite, loss.double() * samples, 0.0))
        self.num_samples += samples

    def look(self) -> tuple[int, bool]:
        """Return how many bad steps came since the last look, and whether the policy has to act.

        Waits for the device.
        """
        new, tripped = self.guard.look()
        scale_is_lost = self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE
        return new, tripped or scale_is_lost

    @property
    def mean_loss(self) -> float:
        """The mean loss since `take_loss`; waits for the device."""
        return float(self.loss_sum.item()) / max(self.num_samples, 1)

    def take_loss(self) -> float:
        """Return the mean loss and begin anew."""
        mean = self.mean_loss
        self.loss_sum.zero_()
        self.num_samples = 0
        return mean


def build_learner(
    module: ImageClassifier,
    config: TrainConfig,
    precision: Precision,
    device: Device,
    steps_per_epoch: int,
) -> Learner:
    """Put a network on its device and give it an optimizer, a schedule, a scaler and an average."""
    place = torch.device(str(device))
    has_conv = any(isinstance(layer, torch.nn.Conv2d) for layer in module.modules())
    module.channels_last = has_conv if config.channels_last == "auto" else config.channels_last
    layout = torch.channels_last if module.channels_last else torch.contiguous_format
    module.to(device=place, memory_format=layout)  # type: ignore[call-overload]
    module.train()
    optimizer = build_optimizer(module, config.optimizer)
    schedule = build_schedule(
        optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=steps_per_epoch
    )
    ema = None
    if config.ema:
        ema = ModelEmaV3(module, decay=config.ema.decay, use_warmup=config.ema.warmup)
    return Learner(
        module=module,
        forward=torch.compile(module) if config.compile else module,
        optimizer=optimizer,
        schedule=schedule,
        scaler=precision.scaler(device),
        ema=ema,
        guard=Guard.on(place, config.guard.tolerate),
        precision=precision,
        device=device,
        label_smoothing=config.label_smoothing,
        grad_clip=config.grad_clip,
        loss_sum=torch.zeros((), dtype=torch.float64, device=place),
    )
