"""Distill: a whole network learns to answer as its teacher does, from the teacher's logits alone.

The loss is the Kullback-Leibler divergence of a network's answers from its teacher's, both softened
by a temperature T, times T^2: so gradients keep their size at any T (Hinton, Vinyals & Dean,
"Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2). Labels play no part.
Both see a batch as it was augmented, mixed samples too: what is copied is a function, and it may be
asked anywhere (Beyer et al., arXiv 2106.05237, section 3). The teacher answers as in use; dropout
and penalties of layers apply to the network that learns.

Shapes: N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax
from torch.nn.utils import clip_grad_norm_

from pipeline.context import Context
from stages.train.fff.config import ConvertConfig
from stages.train.fff.penalties import collected_penalties
from stages.train.reproducible import random_state_kept
from stages.train.schedule import OneCycle, Schedule

_WARMUP = 0.1
"""Share of the steps in which the rate climbs: weights are trained, and Adam knows nothing yet."""
_LARGEST_NORM = 1.0
"""Of all gradients together, to which they are clipped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """How a network's answers compare to its teacher's."""

    same_top1: float
    """Share of the samples to which both give the same first answer."""
    kl: float
    """Mean divergence from the teacher's answers, in nats, at a temperature of 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """What learning end to end brought, on samples that were held back."""

    samples: int
    before: Likeness
    after: Likeness

    @property
    def taken_back(self) -> bool:
        """Whether the answers had come to differ more, so that the weights are those of before."""
        return self.after.kl > self.before.kl


def distill(
    teacher: nn.Module,
    network: nn.Module,
    settings: ConvertConfig,
    batches: Iterator[torch.Tensor],
    held_back: Sequence[torch.Tensor],
    ctx: Context,
) -> Distilled | None:
    """Teach all weights of a network to give the logits that its teacher gives.

    Args:
        teacher: not changed.
        network: changed in place; what it draws (dropout) leaves the random streams as they were.
        settings: how long, how fast, and at which temperature.
        batches: inputs to learn from, endless; what is in them only the networks know.
        held_back: inputs to measure on; at least one.
        ctx: of the stage, to be told and to be stopped by.

    Returns:
        What it brought; None if a loss was not finite. The weights are as they were then, and also
        where their answers came to differ more from the teacher's.

    Raises:
        Interrupted: a stop was asked for; the network is half-way.
    """
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with random_state_kept(), mode_kept(teacher, training=False):
        before = likeness(teacher, network, held_back, ctx)
        steps = _learn(teacher, network, settings, batches, ctx)
        if steps == settings.end_to_end_steps:
            after = likeness(teacher, network, held_back, ctx)
            if math.isfinite(after.kl):
                found = Distilled(samples=sum(map(len, held_back)), before=before, after=after)
                if found.taken_back:
                    network.load_state_dict(kept)
                    _tell_of_loss(before, after, ctx)
                return found
    network.load_state_dict(kept)
    ctx.events.warning(
        f"train.fff.convert.end_to_end_lr: after {steps} step(s) end to end at a peak of "
        f"{settings.end_to_end_lr:g}, what the network learns from was not finite. Its weights are "
        "as they were before the first. Lower it, or set end_to_end_steps: 0."
    )
    return None


def _tell_of_loss(before: Likeness, after: Likeness, ctx: Context) -> None:
    ctx.events.warning(
        f"train.fff.convert: learning end to end led away from the trained network (KL divergence "
        f"{before.kl:.3g} before, {after.kl:.3g} after), so its weights are as they were before. "
        "Take more end_to_end_steps, a lower end_to_end_lr, or end_to_end_steps: 0."
    )


def divergence(
    logits: torch.Tensor, wanted: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return the mean over samples of KL(teacher || network) at a temperature T, times T^2.

    Args:
        logits: (N, K), of the network.
        wanted: (N, K), of the teacher.
        temperature: T.
    """
    kind = torch.promote_types(logits.dtype, torch.float32)
    own, other = (log_softmax(each.to(kind) / temperature, dim=-1) for each in (logits, wanted))
    return kl_div(own, other, reduction="batchmean", log_target=True) * temperature**2


@torch.no_grad()
def likeness(
    teacher: nn.Module, network: nn.Module, inputs: Sequence[torch.Tensor], ctx: Context
) -> Likeness:
    """Compare what two networks answer in use.

    Raises:
        Interrupted: a stop was asked for.
    """
    num = sum(map(len, inputs))
    same, kl = 0, 0.0
    with mode_kept(teacher, training=False), mode_kept(network, training=False):
        for batch in inputs:
            ctx.stop.check()
            wanted, logits = teacher(batch).double(), network(batch).double()
            same += int((wanted.argmax(-1) == logits.argmax(-1)).sum())
            kl += len(batch) * float(divergence(logits, wanted))
    return Likeness(same_top1=same / num, kl=kl / num)


@contextmanager
def mode_kept(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Let a network train or answer in here, and go on as it did before."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


def _learn(
    teacher: nn.Module,
    network: nn.Module,
    settings: ConvertConfig,
    batches: Iterator[torch.Tensor],
    ctx: Context,
) -> int:
    """Return how many steps were taken: fewer than asked for if one was not finite."""
    steps, taken = settings.end_to_end_steps, 0
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, lr=settings.end_to_end_lr, weight_decay=0.0)
    rate = OneCycle(optimizer, steps=steps, warmup=math.ceil(_WARMUP * steps), lowest=0.0)
    schedule = Schedule(optimizer, rate)
    label = "fff.convert, end to end"
    with mode_kept(network, training=True), ctx.events.progress(label, steps) as bar:
        for inputs in islice(batches, steps):
            ctx.stop.check()
            with torch.no_grad():
                wanted = teacher(inputs)
            with collected_penalties() as penalties:
                loss = divergence(network(inputs), wanted, settings.temperature)
            penalties.added_to(loss).backward()  # type: ignore[no-untyped-call]
            norm = clip_grad_norm_(weights, _LARGEST_NORM)
            if not bool((loss + norm).isfinite()):
                break
            schedule.apply(taken)
            optimizer.step()
            optimizer.zero_grad()
            taken += 1
            bar.advance(note=f"KL {loss.item():.3g}")
    optimizer.zero_grad()
    return taken
