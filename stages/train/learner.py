"""Learner: a network with everything that one training step touches, and that step.

learner.step(batch)        # forward, loss, backward, clip, update, average
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pipeline.device import Device
from pipeline.events import EventLog
from stages.augment.loader import Batch
from stages.train.average import Average
from stages.train.config import TrainConfig
from stages.train.freeze import Freezing
from stages.train.fused import quick_update
from stages.train.gradients import Gradients
from stages.train.guard import Guard, mark_if_bad
from stages.train.layout import ALONE, Layout
from stages.train.models.classifier import Classifier
from stages.train.one_device import halving_gradients
from stages.train.optim import build_optimizer, skips_by_itself
from stages.train.out_of_memory import Halving
from stages.train.precision import Precision
from stages.train.reproducible import random_state_kept
from stages.train.schedule import Schedule, build_schedule
from stages.train.statistics import Statistics

SMALLEST_SCALE = 2.0**-10
"""Gradients that overflow fp16 even when scaled down to this are infinite by themselves."""


@dataclass
class Learner:
    """What learns. `step` neither prints, waits for the device, nor reads a number from it."""

    module: Classifier
    gradients: Gradients
    """Computes the gradient of a batch; the weights it is of are the module's."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: Average | None
    guard: Guard
    precision: Precision
    device: Device
    grad_clip: float | None
    statistics: Statistics
    halving: Halving
    """Computes the gradients of this process."""
    freezing: Freezing | None = None
    layout: Layout = ALONE
    num_steps: int = 0
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """Sum of finite losses since `take_loss`, each times its batch size; on the device."""
    num_samples: int = 0

    def __post_init__(self) -> None:
        self._weights = list(self.module.parameters())
        self._apply = quick_update(self.optimizer, self.device)

    def begin_epoch(self, epoch: int) -> None:
        """Freeze or free what the configuration says for an epoch (0 is the first)."""
        if self.freezing is not None:
            self.freezing.begin_epoch(epoch)

    def step(self, batch: Batch) -> None:
        """Learn from one batch; a step whose loss or gradient is not finite changes nothing."""
        self.schedule.apply(self.num_steps)
        self.statistics.remember()

        loss = self.gradients.backward(batch, self.scaler, self.num_steps)
        bad = self._update(loss)
        # Statistics of a bad batch are as bad as its gradient.
        self.statistics.restore_where(bad)
        for weight in self._weights:
            weight.grad = None

        self.num_steps += 1
        if self.ema is not None:
            self.ema.update(self.module, step=self.num_steps)
        samples = len(batch.targets)
        self.loss_sum.add_(torch.nan_to_num(loss, 0.0, 0.0, 0.0), alpha=samples)
        self.num_samples += samples

    def try_out(self, batch: Batch) -> None:
        """Compute gradients once and forget them; weights, statistics and random states stay.

        DDP learns from its first backward pass in which order gradients come, and sums them in that
        order ever after. With this one before any other, a resumed run sums as the first one did.
        """
        with random_state_kept():
            self.statistics.remember()
            self.gradients.backward(batch, torch.amp.GradScaler(enabled=False), self.num_steps)
            self.statistics.restore()
        for weight in self._weights:
            weight.grad = None

    def _update(self, loss: torch.Tensor) -> torch.Tensor:
        """Clip and use the gradients unless they are bad; return a number, 0 if they are good.

        By infinite gradients a scaler finds its scale; there, only an infinite loss is a fault.
        """
        flag = self.guard.flag()
        self.scaler.unscale_(self.optimizer)
        watched = [weight.grad for weight in self._weights if weight.grad is not None]
        if self.grad_clip is not None:
            norm = self.layout.norm_of_all(get_total_norm(watched))
            clip_grads_with_norm_(self._weights, self.grad_clip, norm)
            watched = [norm]
        if self.scaler.is_enabled():
            mark_if_bad(flag, [loss])
            overflows = self.scaler._found_inf_per_device(self.optimizer).values()
            for overflow in overflows:
                self.layout.share(overflow)
            bad = torch.stack([flag, *overflows]).sum()
            self.scaler.step(self.optimizer)  # unless there was an overflow
            self.scaler.update()
            return bad
        mark_if_bad(flag, [*self.layout.own(watched), loss])
        self.layout.share(flag)
        if self.device.is_cuda and skips_by_itself(self.optimizer):
            self.optimizer.found_inf = flag  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not flag.item():  # without a fused kernel, this is the one wait for the device
            self._apply()
        return flag

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
    module: Classifier,
    config: TrainConfig,
    precision: Precision,
    device: Device,
    steps_per_epoch: int,
    layout: Layout = ALONE,
    events: EventLog | None = None,
    pipeline: Gradients | None = None,
) -> Learner:
    """Put a network on its device and give it an optimizer, a schedule, a scaler and an average.

    Args:
        module: the network.
        config: of training.
        precision: of the forward pass.
        device: where the network is.
        steps_per_epoch: what the schedule counts in.
        layout: the processes that train together.
        events: told when memory runs out.
        pipeline: computes the gradients of this process; None: one device does, as a whole.
    """
    place_network(module, config, device)
    ema = Average(module, config.ema) if config.ema else None
    # Frozen weights and gradients in pieces cannot be joined while they are computed.
    is_plain = config.freeze is False and config.parallel.micro_batches in ("auto", 1)
    overlap = layout.is_sharded or (is_plain and pipeline is None)
    forward = layout.spread(module, ema and ema.module, overlap=overlap)
    if ema is not None:
        ema.pair_with(module, layout)
    statistics = Statistics(module)
    halving = halving_gradients(
        torch.compile(forward) if config.compile else forward,
        module,
        config,
        precision,
        device,
        statistics,
        events or EventLog(),
        alone=layout.shard[1] == 1 or not overlap,
    )
    optimizer = build_optimizer(module.body, config.optimizer)
    schedule = build_schedule(
        optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=steps_per_epoch
    )
    place = torch.device(str(device))
    return Learner(
        module=module,
        gradients=layout.joined(pipeline or halving, module, overlap=overlap),
        statistics=statistics,
        halving=halving,
        optimizer=optimizer,
        schedule=schedule,
        scaler=precision.scaler(device),
        ema=ema,
        guard=Guard(place, config.guard.tolerate),
        precision=precision,
        device=device,
        grad_clip=config.grad_clip,
        layout=layout,
        loss_sum=torch.zeros((), dtype=torch.float64, device=place),
    )


def place_network(module: Classifier, config: TrainConfig, device: Device) -> None:
    """Put a network on its device, in the memory layout that suits it, ready to train."""
    has_conv = any(isinstance(layer, torch.nn.Conv2d) for layer in module.modules())
    module.channels_last = has_conv if config.channels_last == "auto" else config.channels_last
    memory_format = torch.channels_last if module.channels_last else torch.contiguous_format
    module.to(device=str(device), memory_format=memory_format)  # type: ignore[call-overload]
    module.train()
