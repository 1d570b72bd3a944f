"""Session: the train stage from data to artifact. Build, rehearse, check, fit, measure, file."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import torch

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.backend import is_installed
from pipeline.context import Context
from pipeline.files import sha256_file, sha256_text
from stages.augment.loader import Loader, SplitName, open_loader
from stages.train.amp_check import AmpCheck, check_amp
from stages.train.checkpoint import CheckpointFolder, save_weights
from stages.train.config import TrainConfig
from stages.train.dead_taps import keep_dead_taps_in_fp32
from stages.train.finetune import freeze_as_asked
from stages.train.learner import Learner, build_learner
from stages.train.loop import Loop
from stages.train.models.classifier import ImageClassifier
from stages.train.network import build_network
from stages.train.precision import resolve_precision
from stages.train.reproducible import arithmetic, random_state_kept, reproducible
from stages.train.result import finish
from stages.train.teller import Teller
from stages.train.threads import resolve_threads

# Settings that leave the weights as they are: changing them does not make a checkpoint worthless.
_NOT_IN_KEY = {"rehearsal", "tensorboard", "checkpoint", "max_time"}


def train(config: TrainConfig, ctx: Context) -> TrainedModel:
    """Train a classifier on the data at hand and leave its weights, predictions and chapter.

    Raises:
        ConfigError: model, optimizer or batch size do not fit together or the data.
        Interrupted: a stop was asked for; the same call goes on from there.
        StageFailed: the loss was not finite and the policy says stop.
    """
    spec = ctx.get(DataSpec)
    precision = resolve_precision(config.precision, ctx.device)
    ctx.events.info(f"precision {precision.name}: {precision.reason}")
    if precision.warning:
        ctx.events.warning(precision.warning)
    with reproducible(
        ctx.device,
        seed=ctx.seed,
        deterministic=config.deterministic,
        threads=resolve_threads(config.threads),
    ):
        module, ref = build_network(config, spec, ctx.events)
        draft = TrainedModel(
            module=ref,
            weights=ctx.dir / "model.safetensors",
            input=spec.input,
            output=spec.output,
            classes=spec.classes,
            precision=precision.name,
            predictions=None,
        )
        checkpoints = CheckpointFolder(
            folder=ctx.dir / "checkpoints",
            key=run_key(config, spec, ctx),
            keep=config.checkpoint.keep,
            events=ctx.events,
        )
        with (
            closing(_open(spec, "train", spec.batch_size, ctx)) as train_loader,
            closing(
                _open(spec, "eval", config.eval_batch_size or spec.batch_size, ctx)
            ) as eval_loader,
        ):
            images = next(iter(eval_loader)).images
            dead = keep_dead_taps_in_fp32(module, images, precision, ctx.device)
            if dead:
                ctx.events.info(
                    f"kept in fp32, parts of their kernels see padding only: {', '.join(dead)}"
                )
            learner = build_learner(module, config, precision, ctx.device, len(train_loader))
            learner.freezing = freeze_as_asked(module, config, ctx.events)
            check = sanity_check(learner, images, ctx)
            if config.rehearsal and not checkpoints.paths():
                rehearse(module, draft, ctx)
            teller = Teller(ctx.events, config.epochs, len(train_loader))
            loop = Loop(config, ctx, learner, train_loader, eval_loader, checkpoints, teller)
            with closing(learner.gradients):
                fit(loop)
            trained = finish(draft, loop, check)
    checkpoints.clear()
    return trained


def fit(loop: Loop) -> None:
    """Run the loop from its newest checkpoint on, with TensorBoard where it is wanted."""
    config, ctx = loop.config, loop.ctx
    if not loop.resume():
        loop.save()
    if not config.tensorboard:
        loop.fit()
    elif not is_installed("tensorboard"):
        ctx.events.info("train.tensorboard: not installed; pip install 'dlpipe[tensorboard]'")
        loop.fit()
    else:
        from stages.train.board import TensorBoard

        with closing(TensorBoard(ctx.dir / "tensorboard", loop.learner.num_steps)) as board:
            loop.teller.boards = (board,)
            loop.fit()


def rehearse(module: ImageClassifier, draft: TrainedModel, ctx: Context) -> None:
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


def sanity_check(learner: Learner, images: torch.Tensor, ctx: Context) -> AmpCheck | None:
    """Compare the chosen precision with fp32 on one batch, and say so."""
    if learner.precision.name == "fp32":
        return None
    check = check_amp(learner.module, images, learner.precision, ctx.device)
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
        "device": str(ctx.device),
        "seed": ctx.seed,
        **arithmetic(ctx.device),
    }
    return sha256_text(json.dumps(parts, sort_keys=True))


def _open(spec: DataSpec, split: SplitName, batch_size: int, ctx: Context) -> Loader:
    def warn(name: str, reason: str) -> None:
        ctx.events.warning(f"{split}: '{name}' is damaged ({reason}); it is left out.")

    return open_loader(
        spec, split, batch_size=batch_size, device=ctx.device, seed=ctx.seed, on_bad_file=warn
    )
