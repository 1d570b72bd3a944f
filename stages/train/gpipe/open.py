"""Opening a pipeline: from configuration and network to a plan and the engine that carries it out.

pipeline = open_pipeline(module, config, precision, ctx, images, batch_size)
pipeline.gradients      # for the learner
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import ConfigError
from pipeline.report.blocks import Block as ReportBlock
from stages.train.config import TrainConfig
from stages.train.gpipe.chained_network import ChainedNetwork
from stages.train.gpipe.chapter import pipeline_blocks
from stages.train.gpipe.comparison import compare_activations
from stages.train.gpipe.devices import Devices
from stages.train.gpipe.memory import MemoryMeter
from stages.train.gpipe.pipeline_plan import PipelinePlan
from stages.train.gpipe.processes import Processes
from stages.train.gpipe.setup import Setup
from stages.train.gpipe.stream import own_devices
from stages.train.models.classifier import Classifier
from stages.train.parallel_config import ParallelConfig
from stages.train.precision import Precision

WHERE = "stages.train.parallel"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A plan, and what carries it out."""

    plan: PipelinePlan
    gradients: Devices | Processes
    meter: MemoryMeter
    """Measures activations of the same network."""

    def blocks(self) -> tuple[ReportBlock, ...]:
        """Return what the report says: plan, the step measured last, memory; nothing before one."""
        timeline = self.gradients.timeline
        if not timeline.spans or timeline.makespan_s <= 0:
            return ()
        return pipeline_blocks(self.plan, timeline, compare_activations(self.plan, self.meter))


def open_pipeline(
    module: Classifier,
    config: TrainConfig,
    precision: Precision,
    ctx: Context,
    images: torch.Tensor,
    batch_size: int,
) -> Pipeline:
    """Cut a network into stages and start them.

    Args:
        module: on its device, in training mode; its parameters may move to other memory.
        config: of training.
        precision: of the forward pass.
        ctx: told the plan.
        images: some of the data set.
        batch_size: samples of a mini-batch.

    Raises:
        CannotSplit: there is no place to cut the network.
        ConfigError: the settings do not fit the network, the batch or the machine.
        StageFailed: a process did not start.
    """
    check_engine(config, ctx.device)
    network = ChainedNetwork.of(module, config, precision, ctx.device, images, batch_size)
    plan = network.plan(config.parallel)
    setup = network.setup(
        plan.bounds,
        plan.micro_batches,
        plan.schedule,
        traits=network.probe(max(plan.sizes)).traits,
        seed=ctx.seed,
    )
    _tell(plan, setup, ctx)
    return Pipeline(plan, _engine(setup, config.parallel, ctx), network.meter)


def check_engine(config: TrainConfig, device: Device) -> None:
    """Check that the engine fits the other settings and the machine.

    Raises:
        ConfigError: it does not.
    """
    parallel = config.parallel
    if parallel.data == "fsdp" and parallel.engine != "distributed":
        raise ConfigError(
            f"{WHERE}.data: 'fsdp' keeps weights in shards, and a pipeline with engine: "
            f"'{parallel.engine}' needs them whole. Use data: ddp, or engine: distributed."
        )
    if config.compile:
        raise ConfigError(
            "stages.train.compile: true compiles the whole network, and parallel.pipeline and "
            "parallel.recompute run it block by block. Set compile: false."
        )
    if parallel.engine == "processes" and device.is_cuda:
        raise ConfigError(
            f"{WHERE}.engine: 'processes' shares the memory of CPUs, and this run is on {device}. "
            "Use engine: devices for several GPUs of one host, or distributed."
        )
    if parallel.engine == "distributed" and "RANK" not in os.environ:
        raise ConfigError(
            f"{WHERE}.engine: 'distributed' runs in processes that torchrun or launch starts, and "
            "this is none. Start it with torchrun --nproc-per-node N -m pipeline run FILE, set "
            "launch: {processes: N}, or use engine: auto."
        )


def _engine(setup: Setup, parallel: ParallelConfig, ctx: Context) -> Devices | Processes:
    stages = setup.stages
    on_cpu = not ctx.device.is_cuda
    if stages > 1 and on_cpu and parallel.engine in ("auto", "processes"):
        cores = len(os.sched_getaffinity(0))
        if stages > cores:
            ctx.events.warning(
                f"train.parallel.pipeline: {stages} stages share {cores} core(s), so that they "
                f"wait for each other. Use pipeline: {cores}, or a machine with more cores."
            )
        return Processes(setup, threads=max(1, torch.get_num_threads() // stages))
    if not on_cpu and stages > torch.cuda.device_count():
        raise ConfigError(
            f"{WHERE}.pipeline: {stages} stages need as many GPUs, and there are "
            f"{torch.cuda.device_count()}. Lower pipeline."
        )
    return Devices(setup, own_devices(torch.device(str(ctx.device)), stages))


def _tell(plan: PipelinePlan, setup: Setup, ctx: Context) -> None:
    ctx.events.info(
        f"pipeline: {setup.stages} stage(s), {plan.micro_batches} micro-batch(es), {plan.schedule},"
        f" recompute {plan.recompute}"
    )
    for number, stage in enumerate(plan.stages):
        ctx.events.info(
            f"{setup.name(number)}: {len(stage.layers)} block(s), {stage.parameters:,} parameters, "
            f"{stage.forward_ms:.1f} + {stage.backward_ms:.1f} ms a micro-batch"
        )
    for reason in plan.reasons:
        ctx.events.info(f"pipeline: {reason}")
