"""Session: the train stage from data to artifact. Build, rehearse, check, fit, measure, file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.backend import is_installed
from pipeline.context import Context
from pipeline.files import sha256_file, sha256_text
from pipeline.ranks import place_from_environment
from stages.augment.loader import Batch, Loader, SplitName, open_loader
from stages.train.allocator import freed_memory_kept
from stages.train.amp_check import AmpCheck, check_amp
from stages.train.batch_search import batch_size_of
from stages.train.checkpoint import CheckpointFolder, save_weights
from stages.train.config import TrainConfig
from stages.train.dead_taps import keep_dead_taps_in_fp32
from stages.train.distributed.entrance import (
    is_to_launch,
    open_layout,
    processes_here,
    share_of,
)
from stages.train.fff.converted import Converted
from stages.train.finetune import freeze_as_asked
from stages.train.layout import Layout
from stages.train.learner import build_learner, place_network
from stages.train.loop import Loop
from stages.train.models.classifier import Classifier
from stages.train.network import build_network, dense_network
from stages.train.precision import Precision, resolve_precision
from stages.train.profile import FOLDER, Profiler
from stages.train.rate_search import search_rate
from stages.train.reproducible import arithmetic, random_state_kept, reproducible
from stages.train.result import finish
from stages.train.teller import Teller
from stages.train.threads import resolve_threads

if TYPE_CHECKING:  # a run without a pipeline imports none of it
    from stages.train.distributed.open_staged import StagedPipeline
    from stages.train.gpipe.open import Pipeline

# Settings that leave the weights as they are: changing them does not make a checkpoint worthless.
_NOT_IN_KEY = {"rehearsal", "tensorboard", "checkpoint", "max_time", "profile", *TrainConfig.means}

_CHECKED = 32
"""Images that are looked at before training; a batch of any size fits in memory by halving."""


def train(config: TrainConfig, ctx: Context) -> TrainedModel:
    """Train a classifier on the data at hand and leave its weights, predictions and chapter.

    Raises:
        ConfigError: model, optimizer or batch size do not fit together or the data.
        Interrupted: a stop was asked for; the same call goes on from there.
        StageFailed: the loss was not finite and the policy says stop.
    """
    spec = ctx.get(DataSpec)
    launching = is_to_launch(config)
    if launching and config.batch_size != "auto":
        share_of(config.batch_size or spec.batch_size, config.launch.world)
    precision = resolve_precision(config.precision, ctx.device)
    switches = reproducible(
        ctx.device,
        seed=ctx.seed,
        deterministic=config.deterministic,
        threads=resolve_threads(config.threads, processes_here()),
    )
    with switches, freed_memory_kept():
        checkpoints = CheckpointFolder(
            folder=ctx.dir / "checkpoints",
            key=run_key(config, spec, ctx),
            keep=config.checkpoint.keep,
            events=ctx.events,
        )
        converted = Converted(folder=checkpoints.folder, lasting=ctx.dir, key=checkpoints.key)
        # The processes that are launched will say it all again.
        module, ref = build_network(config, spec, ctx, converted, quiet=launching)
        draft = TrainedModel(
            module=ref,
            weights=ctx.dir / "model.safetensors",
            input=spec.input,
            output=spec.output,
            classes=spec.classes,
            precision=precision.name,
            predictions=None,
            dense=dense_network(config, ref, converted),
        )
        is_first = not place_from_environment().follows
        if config.rehearsal and is_first and not checkpoints.paths():
            rehearse(module, draft, ctx)
        if launching:
            from stages.train.distributed.launch import launch

            return launch(config, ctx)
        with open_layout(config, ctx, precision) as (layout, own):
            trained = _train_in(layout, config, own, module, precision, draft, checkpoints)
    if is_first:
        checkpoints.clear()
    return trained


def _train_in(
    layout: Layout,
    config: TrainConfig,
    ctx: Context,
    module: Classifier,
    precision: Precision,
    draft: TrainedModel,
    checkpoints: CheckpointFolder,
) -> TrainedModel:
    """Train as one of the processes of a layout."""
    ctx.events.info(f"precision {precision.name}: {precision.reason}")
    if precision.warning:
        ctx.events.warning(precision.warning)
    spec = ctx.get(DataSpec)
    whole = batch_size_of(module, config, spec, precision, ctx, layout.shard[1])
    batch_size = share_of(whole, layout.shard[1])
    eval_size = config.eval_batch_size or whole
    with (
        closing(_open(spec, "train", batch_size, ctx, layout.shard)) as train_loader,
        closing(_open(spec, "eval", eval_size, ctx, layout.eval_shard)) as eval_loader,
    ):
        first = next(iter(eval_loader))
        images = first.inputs[:_CHECKED]
        dead = keep_dead_taps_in_fp32(module, images, precision, ctx.device)
        if dead:
            ctx.events.info(
                f"kept in fp32, parts of their kernels see padding only: {', '.join(dead)}"
            )
        place_network(module, config, ctx.device)
        check = sanity_check(module, images, precision, ctx) if layout.is_first else None
        if config.optimizer.lr == "auto" and layout.shard[1] == 1:
            config = with_found_rate(module, config, precision, ctx, batch_size, layout)
        with pipelined(module, config, precision, ctx, images, batch_size, layout) as pipeline:
            steps = len(train_loader)
            learner = build_learner(
                module, config, precision, ctx.device, steps, layout, ctx.events,
                pipeline.gradients if pipeline else None,
            )  # fmt: skip
            learner.freezing = freeze_as_asked(module, config, ctx.events)
            if layout.shard[1] > 1 and not layout.is_staged:
                learner.try_out(Batch(images, first.targets[:_CHECKED], first.index[:_CHECKED]))
            teller = Teller(ctx.events, config.epochs, steps, spec.noun)
            loop = Loop(config, ctx, learner, train_loader, eval_loader, checkpoints, teller)
            with closing(learner.gradients):
                fit(loop)
                loop.told = pipeline.blocks() if pipeline else ()
        return finish(draft, loop, check)


def with_found_rate(
    module: Classifier,
    config: TrainConfig,
    precision: Precision,
    ctx: Context,
    batch_size: int,
    layout: Layout,
) -> TrainConfig:
    """Search the learning rate and return the configuration with it."""
    with closing(_open(ctx.get(DataSpec), "train", batch_size, ctx, layout.shard)) as loader:
        found = search_rate(module, config, precision, loader, ctx)
    ctx.events.info(
        f"optimizer.lr: auto takes {found.rate:.2g}, where the loss fell fastest in a search over "
        f"{len(found.rates)} steps"
    )
    ctx.events.emit("rate search", rate=found.rate, steps=len(found.rates))
    return config.model_copy(
        update={"optimizer": config.optimizer.model_copy(update={"lr": found.rate})}
    )


@contextmanager
def pipelined(
    module: Classifier,
    config: TrainConfig,
    precision: Precision,
    ctx: Context,
    images: torch.Tensor,
    batch_size: int,
    layout: Layout,
) -> Iterator[Pipeline | StagedPipeline | None]:
    """Run the pipeline that the configuration asks for; None if it asks for none."""
    if not config.parallel.is_pipelined:
        yield None
        return
    if layout.is_staged:
        from stages.train.distributed.open_staged import open_staged
        from stages.train.distributed.staged import Staged

        assert isinstance(layout, Staged)
        yield open_staged(module, config, precision, ctx, images, batch_size, layout)
        return
    from stages.train.gpipe.open import open_pipeline

    pipeline = open_pipeline(module, config, precision, ctx, images, batch_size)
    with closing(pipeline.gradients):
        yield pipeline


def fit(loop: Loop) -> None:
    """Run the loop from its newest checkpoint on, with a profiler where it is wanted."""
    config, ctx = loop.config, loop.ctx
    if not loop.resume():
        loop.save()
    if not config.profile or not loop.learner.layout.is_first:
        fit_on_board(loop)
        return
    profiler = Profiler(ctx.dir / FOLDER, config.profile, ctx.device, ctx.events)
    with closing(profiler) as loop.profiler:
        fit_on_board(loop)


def fit_on_board(loop: Loop) -> None:
    """Run the loop, with TensorBoard where it is wanted."""
    config, ctx = loop.config, loop.ctx
    if not config.tensorboard or not loop.learner.layout.is_first:
        loop.fit()
    elif not is_installed("tensorboard"):
        ctx.events.info("train.tensorboard: not installed; pip install 'dlpipe[tensorboard]'")
        loop.fit()
    else:
        from stages.train.board import TensorBoard

        with closing(TensorBoard(ctx.dir / "tensorboard", loop.learner.num_steps)) as board:
            loop.teller.boards = (board,)
            loop.fit()


def rehearse(module: Classifier, draft: TrainedModel, ctx: Context) -> None:
    """Send the untrained network through every later stage; what fails there fails now."""
    folder = ctx.dir / "rehearsal"
    folder.mkdir(exist_ok=True)
    weights = folder / "model.safetensors"
    save_weights(module.state_dict(), weights)
    strict = torch.are_deterministic_algorithms_enabled()
    with random_state_kept():
        torch.use_deterministic_algorithms(False)  # this is a promise of training, not of export
        try:
            ctx.rehearse(replace(draft, weights=weights))
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=ctx.device.is_cuda)
    weights.unlink()
    folder.rmdir()


def sanity_check(
    module: Classifier, images: torch.Tensor, precision: Precision, ctx: Context
) -> AmpCheck | None:
    """Compare the chosen precision with fp32 on one batch, and say so."""
    if precision.name == "fp32":
        return None
    check = check_amp(module, images, precision, ctx.device)
    ctx.events.emit("amp_check", precision=check.precision, difference=check.difference)
    (ctx.events.warning if check.is_suspicious else ctx.events.info)(f"AMP check: {check}")
    return check


def run_key(config: TrainConfig, spec: DataSpec, ctx: Context) -> str:
    """Return a hash of everything that the bits of the weights depend on."""
    parts = {
        "config": config.model_dump(mode="json", exclude=_NOT_IN_KEY),
        "data": spec.digest,
        "transforms": sha256_file(spec.transforms),
        "loader": [spec.backend, spec.batch_size],
        "device": ctx.device.kind,
        "seed": ctx.seed,
        **arithmetic(ctx.device),
        # As one process would have them: a run may go on with another number of processes.
        "threads": resolve_threads(config.threads),
    }
    return sha256_text(json.dumps(parts, sort_keys=True))


def _open(
    spec: DataSpec, split: SplitName, batch_size: int, ctx: Context, shard: tuple[int, int]
) -> Loader:
    def warn(name: str, reason: str) -> None:
        ctx.events.warning(f"{split}: '{name}' is damaged ({reason}); it is left out.")

    return open_loader(
        spec,
        split,
        batch_size=batch_size,
        device=ctx.device,
        seed=ctx.seed,
        shard=shard,
        on_bad_file=warn,
    )
