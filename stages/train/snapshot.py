"""Snapshot: the live state of training to plain tensors and values, and back.

A snapshot holds whole tensors under the names of parameters, so it loads on any number of
processes, sharded or not. On as many as it was taken on, what follows is equal to the bit. On
another number training goes on with the same step and the same share of the epoch's samples; the
random streams begin anew, since each process has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, cast

import torch
from torch import nn

from pipeline.errors import DataError
from stages.augment.loader import Loader
from stages.train.checkpoint import Checkpoint, Tensors
from stages.train.layout import Layout
from stages.train.learner import Learner
from stages.train.optimizer_state import OptimizerState, load_optimizer, save_optimizer
from stages.train.out_of_memory import HalvingState
from stages.train.position import Plain, Position
from stages.train.reproducible import RandomState, restore_random_state, seed_all


class State(TypedDict):
    """What ``state.pt`` holds: tensors and plain values, so that ``weights_only=True`` loads it."""

    optimizer: OptimizerState
    scaler: dict[str, float | int]
    guard: dict[str, int]
    random: list[RandomState]
    """Of each process."""
    loader: dict[str, str | int]
    """Of the first process."""
    halving: HalvingState
    position: dict[str, Plain]
    num_steps: int
    num_samples: int
    """Of one process."""
    loss_sum: float
    lr_scale: float


def snapshot(
    learner: Learner, loader: Loader, position: Position, best: Tensors
) -> tuple[dict[str, Tensors], Mapping[str, object]]:
    """Take the weights by owner, and everything else (collective)."""
    layout = learner.layout
    weights = {
        "model": layout.whole(learner.module.state_dict()),
        "best": layout.whole(best),
    }
    if learner.ema is not None:
        weights["ema"] = layout.whole(learner.ema.module.state_dict())
    state: State = {
        "optimizer": save_optimizer(learner.optimizer, learner.module, layout),
        "scaler": learner.scaler.state_dict(),
        "guard": learner.guard.state_dict(),
        "random": layout.random_states(),
        "loader": dict(loader.state_dict()),
        "halving": learner.halving.state_dict(),
        "position": position.state_dict(),
        "num_steps": learner.num_steps,
        "num_samples": learner.num_samples,
        "loss_sum": float(learner.loss_sum.item()),
        "lr_scale": learner.schedule.scale,
    }
    return weights, state


def restore(
    checkpoint: Checkpoint, learner: Learner, loader: Loader, seed: int
) -> tuple[Position, Tensors]:
    """Put learner, loader and random states back; return the position and the best weights.

    Raises:
        DataError: the checkpoint was taken with other batches.
    """
    state, layout = cast("State", checkpoint.state), learner.layout
    load_whole(learner.module, checkpoint.weights["model"], layout)
    if learner.ema is not None:
        load_whole(learner.ema.module, checkpoint.weights["ema"], layout)
    load_optimizer(state["optimizer"], learner.optimizer, learner.module, layout)
    learner.scaler.load_state_dict(state["scaler"])
    learner.guard.load_state_dict(state["guard"])
    learner.halving.load_state_dict(state["halving"])
    learner.num_steps = state["num_steps"]
    rank, world = layout.shard
    processes = int(state["loader"]["world"])
    learner.num_samples = state["num_samples"] * processes // world
    # Sums of losses weigh each sample of one process; with half the processes there are twice.
    learner.loss_sum.fill_(state["loss_sum"] * processes / world)
    learner.schedule.scale = state["lr_scale"]
    learner.optimizer.zero_grad(set_to_none=True)
    _place_loader(state["loader"], loader)
    if processes == world:
        restore_random_state(state["random"][rank])
    else:
        seed_all(seed, state["num_steps"], rank, world)
    live = learner.module.state_dict()
    best = {
        name: layout.placed(torch.clone(tensor), live[name])
        for name, tensor in checkpoint.weights.get("best", {}).items()
    }
    return Position.from_state_dict(state["position"]), best


def load_whole(module: nn.Module, tensors: Tensors, layout: Layout) -> None:
    """Load whole tensors into a network that may hold shards."""
    live = module.state_dict()
    module.load_state_dict({name: layout.placed(t, live[name]) for name, t in tensors.items()})


def _place_loader(saved: Mapping[str, str | int], loader: Loader) -> None:
    """Go to the same batch of the epoch: it holds the same samples, however many share them."""
    own = loader.state_dict()
    if int(saved["batch_size"]) * int(saved["world"]) != int(own["batch_size"]) * int(own["world"]):
        raise DataError(
            f"the checkpoint was taken with batches of {saved['batch_size']} on {saved['world']} "
            f"process(es), and these are of {own['batch_size']} on {own['world']}. All processes "
            "together must learn from batches of the same size."
        )
    mine = {key: own[key] for key in ("rank", "world", "batch_size")}
    loader.load_state_dict({**saved, **mine})
