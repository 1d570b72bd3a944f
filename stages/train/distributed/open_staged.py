"""Opening a pipeline over ranks: the first rank plans, all cut alike, each takes its own stages."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from pipeline.context import Context
from pipeline.errors import ConfigError
from pipeline.report.blocks import Block
from stages.train.config import TrainConfig
from stages.train.distributed.staged import Staged
from stages.train.gpipe.chain import Chain
from stages.train.gpipe.chained_network import ChainedNetwork
from stages.train.gpipe.chapter import pipeline_blocks
from stages.train.gpipe.comparison import compare_activations
from stages.train.gpipe.memory import MemoryMeter
from stages.train.gpipe.open import check_engine
from stages.train.gpipe.pipeline_plan import PipelinePlan
from stages.train.gpipe.ranks import STAGES_PER_RANK, Ranks, check_pieces
from stages.train.gpipe.setup import Setup
from stages.train.gpipe.split import state_names
from stages.train.models.classifier import Classifier
from stages.train.parallel_config import ParallelConfig
from stages.train.precision import Precision


@dataclass(frozen=True, slots=True)
class StagedPipeline:
    """This rank's part of a pipeline; the first rank knows the plan."""

    gradients: Ranks
    meter: MemoryMeter
    plan: PipelinePlan | None

    def blocks(self) -> tuple[Block, ...]:
        """Return what the report says of plan and step (collective); nothing before a step."""
        timeline = self.gradients.timeline()
        if self.plan is None or not timeline.spans:
            return ()
        return pipeline_blocks(self.plan, timeline, compare_activations(self.plan, self.meter))


def open_staged(
    module: Classifier,
    config: TrainConfig,
    precision: Precision,
    ctx: Context,
    images: torch.Tensor,
    batch_size: int,
    layout: Staged,
) -> StagedPipeline:
    """Cut a network over the ranks of a pipeline, and tell the layout who trains what.

    Args:
        module: on its device, in training mode.
        config: of training.
        precision: of the forward pass.
        ctx: told the plan.
        images: some of the data set.
        batch_size: samples that one copy of the network learns from at a step.
        layout: the ranks.

    Raises:
        CannotSplit: there is no place to cut the network.
        ConfigError: the settings do not fit the network, the batch or the ranks.
    """
    parallel = config.parallel
    check_engine(config, ctx.device)
    network = ChainedNetwork.of(module, config, precision, ctx.device, images, batch_size)
    plan = _plan(network, parallel, layout) if layout.is_first else None
    # Two profiles are never the same: the first rank's plan is everybody's.
    said = layout.first_says(json.dumps([plan.bounds, plan.micro_batches]) if plan else "")
    bounds, micro_batches = json.loads(said)
    check_pieces(batch_size, micro_batches)
    probed = network.probe(batch_size // micro_batches)
    setup = network.setup(
        tuple(bounds),
        micro_batches,
        parallel.own_schedule,
        traits=probed.traits,
        seed=ctx.seed + layout.shard[0],  # other dropout for other samples
    )
    ranks = Ranks(setup, parallel.schedule, probed, layout.pipeline)
    _check_trainable(ranks)
    layout.divide(_owners(network.chain, module, setup, layout.pipeline.size()), ranks.modules)
    for reason in plan.reasons if plan else ():
        ctx.events.info(f"pipeline: {reason}")
    for stage in range(setup.stages):
        rank = stage % layout.pipeline.size()
        ctx.events.info(f"pipeline: {setup.name(stage)} on rank {rank} of each copy")
    return StagedPipeline(ranks, network.meter, plan)


def _plan(network: ChainedNetwork, parallel: ParallelConfig, layout: Staged) -> PipelinePlan:
    stages = layout.pipeline.size() * STAGES_PER_RANK[parallel.schedule]
    return network.plan(parallel.model_copy(update={"pipeline": stages}), cores=stages)


def _owners(chain: Chain, module: Classifier, setup: Setup, ranks: int) -> dict[str, int]:
    owners: dict[str, int] = {}
    for block, names in enumerate(state_names(chain, module)):
        stage = next(k for k in range(setup.stages) if block < setup.bounds[k + 1])
        owners |= dict.fromkeys(names, stage % ranks)
    return owners


def _check_trainable(ranks: Ranks) -> None:
    for stage, part in zip(ranks.stages, ranks.modules, strict=True):
        if not any(parameter.requires_grad for parameter in part.parameters()):
            raise ConfigError(
                f"stages.train.parallel.pipeline: stage {stage} has no weight to train, and "
                "engine: 'distributed' expects a gradient from each. Use fewer stages, other cuts, "
                "freeze: false, or engine: processes."
            )
