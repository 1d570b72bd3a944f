"""Planner: from the YAML and a chain of blocks to a plan: stages, micro-batches, time, memory.

    plan = plan_pipeline(config.parallel, chain, images)
    plan.bounds, plan.micro_batches, plan.step_s

Blocks are timed, partitions exact, steps simulated, memory measured on fake tensors.
``micro_batches: auto`` is the fastest simulated step, ``pipeline: auto`` the fewest stages that
fit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext

import torch

from pipeline.errors import ConfigError
from stages.train.gpipe.chain import Chain
from stages.train.gpipe.company import Crowding, alone
from stages.train.gpipe.draft import Draft, Drafts, Link, gib, powers
from stages.train.gpipe.memory import Autocast, Loss, MemoryMeter, Recompute, any_loss
from stages.train.gpipe.partition import cut_at
from stages.train.gpipe.pipeline_plan import PipelinePlan, StagePlan
from stages.train.gpipe.profile import Profile, profile_chain
from stages.train.gpipe.weights import ParameterBytes, num_parameters
from stages.train.parallel_config import ParallelConfig

WHERE = "stages.train.parallel"
_MOST_CHECKED = 4
"""Drafts of one number of stages, fastest first, that are measured as a whole."""


def plan_pipeline(
    config: ParallelConfig,
    chain: Chain,
    images: torch.Tensor,
    *,
    weights: ParameterBytes | None = None,
    loss: Loss = any_loss,
    autocast: Autocast = nullcontext,
    profile: Profile | None = None,
    meter: MemoryMeter | None = None,
    link: Link | None = None,
    cores: int | None = None,
) -> PipelinePlan:
    """Return the plan that the configuration asks for.

    Args:
        config: what the YAML says under ``parallel:``.
        chain: the whole network, on its device, in training mode.
        images: one mini-batch as the first block takes it.
        weights: bytes that each parameter costs; those of AdamW if left out.
        loss: from the last block's output to a scalar.
        autocast: the context of a forward pass.
        profile: seconds of the blocks; measured here if left out.
        meter: measures memory; made here if left out.
        link: between stages; a copy through shared memory if left out.
        cores: how many stages can work at once; if left out, the cores of this machine's CPU,
            whose stages are then timed in each other's company, or all on GPUs.

    Raises:
        ConfigError: more stages than blocks, fewer samples than micro-batches, a cut at no block,
            or a memory that nothing fits.
    """
    batch = len(images)
    _check(config, chain, batch)
    crowding: Callable[[int], float] = alone
    if cores is None and not images.is_cuda:
        cores = len(os.sched_getaffinity(0))
        some = images[: profile_sizes(config, batch)[0]]
        crowding = Crowding(chain=chain, images=some, loss=loss, autocast=autocast, cores=cores)
    drafts = Drafts(
        config=config,
        meter=meter
        or MemoryMeter(
            chain, images, loss=loss, autocast=autocast, defers_weights=config.defers_weights
        ),
        profile=profile
        or profile_chain(
            chain, images, profile_sizes(config, batch), loss=loss, autocast=autocast,
            defers_weights=config.defers_weights,
        ),
        batch=batch,
        weights=weights or ParameterBytes(),
        link=link or Link(),
        cores=cores,
        crowding=crowding,
        cuts=cut_at([b.name for b in chain.blocks], config.cuts) if config.cuts else None,
    )  # fmt: skip
    stages = _numbers_of_stages(config, drafts)
    for count in stages:
        for draft in drafts.of(count)[:_MOST_CHECKED]:
            measured = _measure(drafts, draft)
            if config.memory is None or _fullest(measured) <= config.memory:
                return _plan(config, drafts, draft, measured)
    raise ConfigError(_fits_nowhere(config, drafts, stages))


def profile_sizes(config: ParallelConfig, batch: int) -> tuple[int, ...]:
    """Return the micro-batch sizes worth timing: what is asked for, or a few to interpolate."""
    if isinstance(config.micro_batches, int):
        asked = -(-batch // config.micro_batches)
        return tuple(sorted({asked, batch}))
    smallest = min(2, batch)  # batch norm may refuse a single sample
    return tuple(sorted({max(smallest, batch // part) for part in (64, 16, 4, 1)}))


def _check(config: ParallelConfig, chain: Chain, batch: int) -> None:
    if isinstance(config.pipeline, int) and config.pipeline > len(chain):
        raise ConfigError(
            f"{WHERE}.pipeline: {config.pipeline} stages, and the network is a chain of "
            f"{len(chain)} blocks that can be cut between. Allowed: 1 to {len(chain)}. Lower "
            "pipeline, or take a deeper network."
        )
    if isinstance(config.micro_batches, int) and config.micro_batches > batch:
        raise ConfigError(
            f"{WHERE}.micro_batches: {config.micro_batches} is more than the {batch} samples of a "
            f"mini-batch. Allowed: 1 to {batch}. Lower micro_batches, or raise "
            "stages.augment.batch_size."
        )
    if isinstance(config.pipeline, int) and config.pipeline > max(batch, 1):
        raise ConfigError(
            f"{WHERE}.pipeline: {config.pipeline} stages need as many micro-batches, and a "
            f"mini-batch has {batch} samples. Allowed: 1 to {batch}. Lower pipeline, or raise "
            "stages.augment.batch_size."
        )


def _numbers_of_stages(config: ParallelConfig, drafts: Drafts) -> range:
    if config.cuts:
        return range(len(config.cuts) + 1, len(config.cuts) + 2)
    if isinstance(config.pipeline, int):
        return range(config.pipeline, config.pipeline + 1)
    return range(1, _most_stages(config, drafts) + 1)


def _most_stages(config: ParallelConfig, drafts: Drafts) -> int:
    most = config.micro_batches if isinstance(config.micro_batches, int) else drafts.batch
    return min(len(drafts.meter.chain), most)


def _measure(drafts: Drafts, draft: Draft) -> tuple[StagePlan, ...]:
    """Measure every stage of a draft as a whole."""
    chain, times = drafts.meter.chain, drafts.times(draft)
    plans = []
    for k, blocks in enumerate(chain.stages(draft.bounds)):
        activations = drafts.meter.activations(
            draft.bounds[k],
            draft.bounds[k + 1],
            drafts.size(draft.micro_batches),
            drafts.config.recompute_mode,
            drafts.alive(draft.stages, draft.micro_batches)[k],
        )
        plans.append(
            StagePlan(
                layers=tuple(block.name for block in blocks),
                parameters=num_parameters(blocks),
                forward_ms=1e3 * times.forward_s[k],
                backward_ms=1e3 * (times.backward_s[k] + times.weights_s[k]),
                activation_bytes=activations,
                memory_bytes=drafts.weights.of(blocks) + activations,
            )
        )
    return tuple(plans)


def _fullest(stages: tuple[StagePlan, ...]) -> int:
    return max(stage.memory_bytes for stage in stages)


def _plan(
    config: ParallelConfig, drafts: Drafts, draft: Draft, stages: tuple[StagePlan, ...]
) -> PipelinePlan:
    profile, batch = drafts.profile, drafts.batch
    return PipelinePlan(
        bounds=draft.bounds,
        stages=stages,
        batch=batch,
        micro_batches=draft.micro_batches,
        schedule=drafts.schedule,
        recompute=config.recompute_mode,
        predicted=draft.timeline,
        plain_s=profile.step_s(batch, draft.micro_batches),
        best_plain_s=min(profile.step_s(batch, m) for m in powers(batch)),
        reasons=tuple(_reasons(config, drafts, draft, stages)),
    )


def _reasons(
    config: ParallelConfig, drafts: Drafts, draft: Draft, stages: tuple[StagePlan, ...]
) -> list[str]:
    reasons = []
    if config.pipeline == "auto" and config.memory is not None:
        before = drafts.least(draft.stages - 1, config.recompute_mode) if draft.stages > 1 else None
        less = f"; {draft.stages - 1} would need {gib(before.bytes)}" if before else ""
        reasons.append(
            f"{draft.stages} stage(s): the fewest that fit {gib(config.memory)} a device "
            f"(the fullest takes {gib(_fullest(stages))}{less})"
        )
    if config.micro_batches == "auto":
        tried = sorted(drafts.of(draft.stages), key=lambda one: one.micro_batches)
        steps = ", ".join(f"{one.micro_batches}: {1e3 * one.step_s:.1f} ms" for one in tried)
        reasons.append(
            f"{draft.micro_batches} micro-batch(es): the fastest simulated step ({steps})"
        )
    if config.cuts:
        reasons.append(f"cut where parallel.cuts says: {', '.join(config.cuts)}")
    elif draft.stages > 1:
        reasons.append(
            "cut so that the simulated step is shortest"
            if drafts.shifts_cuts
            else f"cut so that the {config.balance} of the dearest stage is least"
        )
    if (longer := drafts.crowding(draft.stages)) > 1:
        reasons.append(
            f"blocks are timed {longer:.2f} times as slow beside {draft.stages - 1} other stage(s) "
            f"on {drafts.cores} core(s) as alone"
        )
    if drafts.schedule != config.schedule:
        reasons.append(f"{config.schedule} is simulated as {drafts.schedule}: it is no slower")
    return reasons


def _fits_nowhere(config: ParallelConfig, drafts: Drafts, stages: range) -> str:
    assert config.memory is not None
    most = stages[-1]
    as_is = drafts.least(most, config.recompute_mode)
    asked = f"{most} stage(s)" if len(stages) == 1 else f"any of 1 to {most} stages"
    mends = [
        f"raise memory to {gib(as_is.bytes, up=True)} with micro_batches: {as_is.micro_batches}"
    ]
    splits = config.defers_weights  # which goes with nothing that is computed again
    others = drafts.changed(schedule="1f1b") if splits else drafts
    modes: tuple[Recompute, ...] = ("never", "always", "blocks") if splits else ("always", "blocks")
    for mode in modes:
        again = others.least(most, mode)
        if again.bytes <= config.memory:
            also = "schedule: 1f1b and " if splits else ""
            mends.append(f"set {also}recompute: {mode} with micro_batches: {again.micro_batches}")
            break
    for more in range(most + 1, _most_stages(config, drafts) + 1):
        if drafts.least(more, config.recompute_mode).bytes <= config.memory and not config.cuts:
            mends.append(f"set pipeline: {more}")
            break
    return (
        f"{WHERE}.memory: {gib(config.memory)} is too little for {asked}: at the best the fullest "
        f"stage takes {gib(as_is.bytes)}. What fits: {'; or '.join(mends)}."
    )
