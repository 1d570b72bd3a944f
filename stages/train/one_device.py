"""Gradients on one device: of the whole batch at once, or in micro-batches, as memory allows."""

from __future__ import annotations

from functools import partial

from torch import nn

from pipeline.device import Device
from pipeline.events import EventLog
from stages.train.config import TrainConfig
from stages.train.gradients import Forward, Gradients, WholeBatch
from stages.train.micro_batches import MicroBatches
from stages.train.out_of_memory import Halving
from stages.train.precision import Precision
from stages.train.statistics import Statistics


def halving_gradients(
    forward: Forward,
    module: nn.Module,
    config: TrainConfig,
    precision: Precision,
    device: Device,
    statistics: Statistics,
    events: EventLog,
    *,
    alone: bool = True,
) -> Halving:
    """Return what computes gradients on one device, and lives with what memory there is.

    Args:
        forward: the module, or what it is compiled to or wrapped in.
        module: the network.
        config: of training.
        precision: of the forward pass.
        device: where the network is.
        statistics: what the learner remembers at the start of a step.
        events: told when micro-batches halve.
        alone: whether no other process counts on this one's passes, so that they can be repeated.
    """
    wanted = config.parallel.micro_batches
    make = partial(_in_pieces, forward, module, config, precision, device)
    return Halving(
        make=make,
        weights=list(module.parameters()),
        statistics=statistics,
        device=device,
        events=events,
        may_halve=alone and config.on_oom == "halve",
        micro_batches=1 if wanted == "auto" else wanted,
    )


def _in_pieces(
    forward: Forward,
    module: nn.Module,
    config: TrainConfig,
    precision: Precision,
    device: Device,
    pieces: int,
) -> Gradients:
    if pieces == 1:
        return WholeBatch(forward, precision, device, config.label_smoothing)
    return MicroBatches(module, forward, precision, device, config.label_smoothing, pieces)
