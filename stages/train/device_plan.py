"""DevicePlan: the tables of `dlpipe plan --devices`, from the configuration and random images."""

from __future__ import annotations

from dataclasses import replace

import torch

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.events import EventLog
from pipeline.report.blocks import Block, Note
from stages.train.config import TrainConfig
from stages.train.gpipe.forecast import forecast
from stages.train.gpipe.split import split
from stages.train.gpipe.weights import parameter_bytes
from stages.train.learner import place_network
from stages.train.network import build_network
from stages.train.parallel_config import ParallelConfig
from stages.train.precision import resolve_precision

_TRACED = 2
"""Images that the network is cut with."""


def plan_devices(
    config: TrainConfig, ctx: Context, *, devices: int, memory: int
) -> tuple[Block, ...]:
    """Build the network, time its blocks, and lay it over devices.

    Raises:
        CannotSplit: the network has no place to cut.
        ConfigError: there is no such model, or it does not fit the data.
        MissingArtifact: the data is not known yet.
    """
    spec = ctx.get(DataSpec)
    precision = resolve_precision(config.precision, ctx.device)
    torch.manual_seed(ctx.seed)
    fff = config.fff and config.fff.model_copy(update={"convert": False})
    random = config.model_copy(update={"pretrained": False, "fff": fff})
    module, _ = build_network(random, spec, replace(ctx, events=EventLog()), shown=False)
    place_network(module, config, ctx.device)
    size = config.batch_size if isinstance(config.batch_size, int) else spec.batch_size
    images = _random_batch(spec, size).to(str(ctx.device))
    tables = forecast(
        config.parallel,
        split(module, images[:_TRACED]),
        images,
        devices=devices,
        memory=memory,
        weights=parameter_bytes(config),
        autocast=lambda: precision.autocast(ctx.device),
    )
    return (*tables, *_left_out(config, size))


def _left_out(config: TrainConfig, size: int) -> tuple[Note, ...]:
    """Return what the tables do without although the configuration says it."""
    asked, default = config.parallel, ParallelConfig()
    tried = ("pipeline", "micro_batches", "cuts")
    said = [name for name in tried if getattr(asked, name) != getattr(default, name)]
    notes = []
    if said:
        names = ", ".join(f"parallel.{name}" for name in said)
        notes.append(f"{names}: not used here, where all numbers of stages and micro-batches count")
    if config.batch_size == "auto":
        notes.append(f"batch_size: auto is searched in the run; planned with {size}")
    if config.launch.world > 1:
        notes.append(
            f"launch: planned for one copy of the network with the whole mini-batch of {size}"
        )
    return tuple(Note(text=f"{text}.") for text in notes)


def _random_batch(spec: DataSpec, size: int) -> torch.Tensor:
    """Return a mini-batch of noise, texts as long as they may be."""
    if spec.tokens is not None:
        shape = (size, spec.tokens.length)
        return torch.randint(0, spec.tokens.vocabulary, shape, dtype=torch.int32)
    shape_of_images = (size, spec.height, spec.width, spec.channels)
    return torch.randint(0, 256, shape_of_images, dtype=torch.uint8)
