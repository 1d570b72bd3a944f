"""Ranks: a pipeline over the processes of a launcher, on one host or many, GPUs or CPUs.

`torch.distributed.pipelining` sends, receives and keeps the order; this is the adapter between it
and `Gradients`. Each rank computes the gradients of its own stages. With K ranks, the interleaved
and zero-bubble schedules give each of them two stages: rank r holds stages r and r + K.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
import torch.distributed as dist
from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

from pipeline.errors import ConfigError
from stages.augment.loader import Batch
from stages.train.gpipe.probe import Layout, Probed
from stages.train.gpipe.setup import Setup
from stages.train.gpipe.stage_module import StageModule
from stages.train.gpipe.timed_stage import TimedStage
from stages.train.gpipe.timeline import Span, Timeline
from stages.train.objective import Labels

STAGES_PER_RANK = {"gpipe": 1, "1f1b": 1, "interleaved_1f1b": 2, "zero_bubble": 2}
_SINGLE = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
_MULTI = {
    "interleaved_1f1b": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
}


class Ranks:
    """`Gradients` of the stages of this rank."""

    def __init__(
        self, setup: Setup, schedule: str, probed: Probed, group: dist.ProcessGroup
    ) -> None:
        """Take this rank's stages out of a chain.

        Args:
            setup: the chain and its cuts; the same on all ranks of the group.
            schedule: as the configuration names it.
            probed: of one micro-batch.
            group: the ranks of this pipeline, in order.
        """
        self._setup, self._group = setup, group
        self._total = torch.zeros((), device=str(setup.device))
        self._scaler = torch.amp.GradScaler(enabled=False)
        self.stages = range(group.rank(), setup.stages, group.size())
        self.modules = [self._module(stage, probed) for stage in self.stages]
        self._timed = [
            TimedStage(
                module,
                stage,
                setup.stages,
                torch.device(str(setup.device)),
                input_args=_examples(probed.carries[setup.bounds[stage]]),
                output_args=_examples(probed.carries[setup.bounds[stage + 1]]),
                group=group,
            )
            for stage, module in zip(self.stages, self.modules, strict=True)
        ]
        self._schedule = self._open_schedule(schedule, self._timed)
        self._last_rank = (setup.stages - 1) % group.size()

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, step: int) -> torch.Tensor:
        """Add the gradient of the scaled mean loss to ``grad`` of this rank's parameters.

        Returns:
            The mean loss, on every rank.

        Raises:
            ConfigError: the batch cannot be cut into equal micro-batches.
        """
        pieces = self._setup.micro_batches
        check_pieces(len(batch.targets), pieces)
        self._scaler = scaler
        self._total = scaler.scale(torch.zeros_like(self._total))  # its scale exists from here on
        inputs = (batch.inputs,) if self.stages[0] == 0 else ()
        target = None
        if self.stages[-1] == self._setup.stages - 1:
            target = _columns(Labels.of(batch.targets, batch.mix))
        for timed in self._timed:
            timed.begin()
        with ExitStack() as deferred:
            for module in self.modules:
                module.begin(step)
                deferred.enter_context(module.norms.deferred(pieces))
            self._schedule.step(*inputs, target=target)
        dist.broadcast(self._total, group=self._group, group_src=self._last_rank)
        return self._total

    def timeline(self) -> Timeline:
        """Return when each stage worked in the last step, by its own rank's clock (collective)."""
        own = [span for timed in self._timed for span in timed.spans()]
        parts: list[list[Span]] = [[] for _ in range(self._group.size())]
        dist.all_gather_object(parts, own, group=self._group)
        spans = tuple(span for part in parts for span in part)
        return Timeline(self._setup.stages, self._setup.micro_batches, spans)

    def close(self) -> None:
        """Stop nothing: the launcher ends the processes."""

    def _module(self, stage: int, probed: Probed) -> StageModule:
        setup = self._setup
        inputs = probed.carries[setup.bounds[stage]]
        return StageModule(setup.blocks(stage), setup.cell_plan(stage), inputs)

    def _open_schedule(
        self, name: str, stages: Sequence[TimedStage]
    ) -> PipelineScheduleSingle | PipelineScheduleMulti:
        pieces = self._setup.micro_batches
        try:
            if name in _SINGLE:
                (stage,) = stages
                return _SINGLE[name](stage, pieces, loss_fn=self._loss, scale_grads=False)
            return _MULTI[name](list(stages), pieces, loss_fn=self._loss, scale_grads=False)
        except ValueError as error:
            raise ConfigError(
                f"stages.train.parallel.schedule: '{name}' cannot run {pieces} micro-batches over "
                f"{self._group.size()} ranks: {error}. Use a multiple of {self._group.size()}, or "
                "schedule: 1f1b."
            ) from error

    def _loss(self, logits: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        loss = _labels(columns).loss(logits, self._setup.label_smoothing)
        loss = loss / self._setup.micro_batches
        self._total += loss.detach()
        scaled: torch.Tensor = self._scaler.scale(loss)
        return scaled


def check_pieces(samples: int, pieces: int) -> None:
    """Check that a batch can be cut into equal pieces: this engine sends one shape only.

    Raises:
        ConfigError: it cannot.
    """
    if samples % pieces:
        lower = next(number for number in range(pieces, 0, -1) if samples % number == 0)
        raise ConfigError(
            f"stages.train.parallel.micro_batches: {pieces} does not divide the {samples} images "
            f"that a pipeline learns from at a step, and engine: 'distributed' takes equal pieces "
            f"only. Use {lower}, another batch_size, or engine: processes."
        )


def _columns(labels: Labels) -> torch.Tensor:
    """Put labels into one tensor (N, 3), which can be cut into pieces."""
    if labels.partner is None or labels.weight is None:
        return labels.own[:, None]
    columns = (labels.own, labels.partner, labels.weight)
    return torch.stack([column.double() for column in columns], dim=1)


def _labels(columns: torch.Tensor) -> Labels:
    if columns.shape[1] == 1:
        return Labels(columns[:, 0])
    own, partner, weight = columns.unbind(1)
    return Labels(own.long(), partner.long(), weight.float())


def _examples(layouts: tuple[Layout, ...]) -> tuple[torch.Tensor, ...]:
    """Describe what crosses a cut; of numbers that can have a gradient, one comes back."""
    return tuple(
        torch.empty(
            one.shape, dtype=one.dtype, device="meta", requires_grad=one.dtype.is_floating_point
        )
        for one in layouts
    )
