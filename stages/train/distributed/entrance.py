"""Entrance: from one process to the layout it trains in, as its launcher and the YAML say.

Light: `torch.distributed` is imported only where there is more than one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipeline.context import Context
from pipeline.errors import ConfigError
from pipeline.ranks import place_from_environment
from stages.train.config import TrainConfig
from stages.train.layout import ALONE, Layout
from stages.train.parallel_config import ParallelConfig
from stages.train.precision import Precision
from stages.train.reproducible import seed_all


@contextmanager
def open_layout(
    config: TrainConfig, ctx: Context, precision: Precision
) -> Iterator[tuple[Layout, Context]]:
    """Call the other processes of this run, if there are any, and stay together for the block.

    Yields the layout, and the context with this process's own device.

    Raises:
        ConfigError: the processes cannot be arranged as configured.
        LostRank: another process did not come, or went away in the middle.
    """
    if place_from_environment().world == 1:
        yield ALONE, ctx
        return
    from stages.train.distributed.data_parallel import DataParallel
    from stages.train.distributed.group import open_group
    from stages.train.distributed.staged import Staged

    parallel = config.parallel
    stages = stages_over_ranks(parallel)
    if parallel.data == "fsdp" and precision.name == "fp16":
        raise ConfigError(
            "stages.train.parallel.data: 'fsdp' does not go with precision fp16: the loss scale is "
            "searched for by gradients, of which each process has other shards. Use precision: "
            "bf16 or fp32, or data: ddp."
        )
    ctx.call()
    with open_group(
        ctx.device, backend=config.launch.backend, stages=stages, timeout_s=parallel.timeout_s
    ) as group:
        layout = (
            DataParallel(group, is_sharded=parallel.data == "fsdp")
            if stages == 1
            else Staged(group, is_sharded=False)
        )
        rank, world = layout.shard
        how = "FSDP2" if layout.is_sharded else "DDP"
        if stages > 1:
            how = f"{world} pipeline(s) of {stages} ranks"
        ctx.events.info(f"{group.world} processes train together by {how} over {group.carrier}")
        if rank:  # the same network on all, but other dropout
            seed_all(ctx.seed, 0, rank, world)
        yield layout, replace(ctx, device=group.device)


def stages_over_ranks(parallel: ParallelConfig) -> int:
    """Return how many ranks hold the stages of one copy of the network; 1: each holds it whole.

    Raises:
        ConfigError: the processes cannot be arranged before that is known, or not like that.
    """
    if parallel.engine != "distributed" or parallel.pipeline == 1:
        return 1
    if parallel.pipeline == "auto":
        raise ConfigError(
            "stages.train.parallel.pipeline: 'auto' does not go with engine: 'distributed', whose "
            "processes are there before the network is profiled. `dlpipe plan --devices N --memory "
            "SIZE` says what fits; give that number."
        )
    if parallel.data == "fsdp":
        raise ConfigError(
            "stages.train.parallel.data: 'fsdp' does not go with a pipeline over ranks, of which "
            "each trains its own layers already. Use data: ddp."
        )
    return parallel.pipeline


def is_to_launch(config: TrainConfig) -> bool:
    """Tell whether the YAML asks for more processes, and no launcher has started them already."""
    launch = config.launch
    return (launch.processes > 1 or len(launch.hosts) > 1) and "RANK" not in os.environ


def share_of(batch_size: int, world: int) -> int:
    """Return this process's share of a mini-batch of all processes.

    Raises:
        ConfigError: it cannot be shared equally.
    """
    if batch_size % world:
        lower = batch_size // world * world
        raise ConfigError(
            f"stages.augment.batch_size: {batch_size} images cannot be shared equally by {world} "
            f"processes; all together learn from one such batch at a step. "
            f"Use {f'{lower} or ' if lower else ''}{lower + world}, or another number of processes."
        )
    return batch_size // world


def processes_here() -> int:
    """Return how many processes of this run share the cores of this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
