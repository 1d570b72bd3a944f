"""Chained network: a network as a chain of blocks, and what it takes to plan its stages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from pipeline.device import Device
from stages.train.config import TrainConfig
from stages.train.gpipe.chain import Block, Chain
from stages.train.gpipe.memory import MemoryMeter
from stages.train.gpipe.orders import Schedule
from stages.train.gpipe.partition import Bounds
from stages.train.gpipe.pipeline_plan import PipelinePlan
from stages.train.gpipe.planner import plan_pipeline
from stages.train.gpipe.probe import Probed, Traits, probe
from stages.train.gpipe.setup import Setup
from stages.train.gpipe.split import CannotSplit, split
from stages.train.gpipe.weights import parameter_bytes
from stages.train.models.classifier import Classifier
from stages.train.parallel_config import ParallelConfig
from stages.train.precision import Precision

_EXAMPLES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainedNetwork:
    """A network as a chain of blocks, with what it takes to plan its stages."""

    chain: Chain
    config: TrainConfig
    precision: Precision
    device: Device
    example: torch.Tensor
    """A mini-batch."""
    meter: MemoryMeter

    @classmethod
    def of(
        cls,
        module: Classifier,
        config: TrainConfig,
        precision: Precision,
        device: Device,
        images: torch.Tensor,
        batch_size: int,
    ) -> ChainedNetwork:
        """Split a network; a few images are repeated to a mini-batch.

        Raises:
            CannotSplit: there is no place to cut the network.
        """
        chain = open_chain(module, images, config.parallel)
        repeats = -(-batch_size // len(images))
        example = images.repeat(repeats, *[1] * (images.dim() - 1))[:batch_size]
        meter = MemoryMeter(
            chain, example, autocast=partial(precision.autocast, device),
            defers_weights=config.parallel.defers_weights,
        )  # fmt: skip
        return cls(
            chain=chain, config=config, precision=precision, device=device, example=example,
            meter=meter,
        )  # fmt: skip

    def plan(self, parallel: ParallelConfig, cores: int | None = None) -> PipelinePlan:
        """Choose stages and micro-batches; `cores` is how many stages can work at once."""
        return plan_pipeline(
            parallel,
            self.chain,
            self.example,
            weights=parameter_bytes(self.config),
            autocast=partial(self.precision.autocast, self.device),
            meter=self.meter,
            cores=cores,
        )

    def probe(self, size: int) -> Probed:
        """Find out what the blocks do with a micro-batch of that size."""
        return probe(self.chain, self.example[:size], self.precision, self.device)

    def setup(
        self,
        bounds: Bounds,
        micro_batches: int,
        schedule: Schedule,
        *,
        traits: tuple[Traits, ...],
        seed: int,
    ) -> Setup:
        """Return everything that an engine has to know."""
        return Setup(
            chain=self.chain,
            bounds=bounds,
            traits=traits,
            micro_batches=micro_batches,
            schedule=schedule,
            recompute=self.config.parallel.recompute_mode,
            precision=self.precision,
            device=self.device,
            label_smoothing=self.config.label_smoothing,
            seed=seed,
            timeout_s=self.config.parallel.timeout_s,
        )


def open_chain(module: Classifier, images: torch.Tensor, parallel: ParallelConfig) -> Chain:
    """Split a network into blocks; one stage does without.

    Raises:
        CannotSplit: there is no place to cut the network.
    """
    try:
        return split(module, images[:_EXAMPLES])
    except CannotSplit:
        if parallel.pipeline != 1:
            raise
        return Chain((Block("all", module),))  # one stage has no cuts
