"""Setup: everything an engine needs to know to run a chain as a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.device import Device
from stages.train.gpipe.cell import CellPlan, Recompute
from stages.train.gpipe.chain import Block, Carry, Chain
from stages.train.gpipe.orders import Schedule, Work, defers_weights, order
from stages.train.gpipe.probe import Traits
from stages.train.micro_batches import Piece
from stages.train.precision import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A chain, where it is cut, and how micro-batches run through it."""

    chain: Chain
    bounds: tuple[int, ...]
    """Block numbers: 0, the cuts, and the end."""
    traits: tuple[Traits, ...]
    """Of each block."""
    micro_batches: int
    schedule: Schedule
    recompute: Recompute
    precision: Precision
    device: Device
    label_smoothing: float
    seed: int
    timeout_s: float
    """How long a stage may keep its neighbours waiting."""

    @property
    def stages(self) -> int:
        """How many stages."""
        return len(self.bounds) - 1

    def blocks(self, stage: int) -> tuple[Block, ...]:
        """Return the blocks of a stage."""
        return self.chain.blocks[self.bounds[stage] : self.bounds[stage + 1]]

    def works(self, stage: int) -> tuple[Work, ...]:
        """Return what a stage does in one step; alone, it goes back as soon as it can."""
        schedule: Schedule = self.schedule if self.stages > 1 else "1f1b"
        return order(schedule, stage, self.stages, self.micro_batches)

    def cell_plan(self, stage: int) -> CellPlan:
        """Return what a stage knows about itself."""
        start, stop = self.bounds[stage : stage + 2]
        return CellPlan(
            stage=stage,
            first_block=start,
            traits=self.traits[start:stop],
            recompute=self.recompute,
            micro_batches=self.micro_batches,
            seed=self.seed,
            precision=self.precision,
            device=self.device,
            defers_weights=defers_weights(self.schedule, stage),
        )

    def name(self, stage: int) -> str:
        """Return a stage in words: ``stage 1 of 0..3 (body.layer2.0 to body.layer3.1)``."""
        blocks = self.blocks(stage)
        layers = blocks[0].name + (f" to {blocks[-1].name}" if len(blocks) > 1 else "")
        return f"stage {stage} of 0..{self.stages - 1} ({layers})"


class Loss:
    """What the last stage ends in: each piece's share of the scaled loss, added up unscaled."""

    def __init__(self, smoothing: float) -> None:
        self._smoothing = smoothing
        self._pieces: tuple[Piece, ...] = ()
        self._scaler = torch.amp.GradScaler(enabled=False)
        self.total = torch.zeros(())

    def begin(self, pieces: tuple[Piece, ...], scaler: torch.amp.GradScaler) -> None:
        """Begin with another mini-batch; its labels are where the last stage is."""
        self._pieces, self._scaler = pieces, scaler
        self.total = torch.zeros((), device=pieces[0].labels.own.device)

    def __call__(self, m: int, carry: Carry, first_time: bool) -> torch.Tensor:
        """Return the scaled loss of a piece, and count it unless it is computed again."""
        (logits,) = carry
        loss = self._pieces[m].loss(logits, self._smoothing)
        if first_time:
            self.total += loss.detach()
        scaled: torch.Tensor = self._scaler.scale(loss)
        return scaled
