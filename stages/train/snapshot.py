"""Snapshot: the live state of training to plain tensors and values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, cast

import torch

from stages.augment.loader import Loader
from stages.train.checkpoint import Checkpoint, Tensors
from stages.train.learner import Learner
from stages.train.position import Plain, Position
from stages.train.reproducible import RandomState, capture_random_state, restore_random_state


class State(TypedDict):
    """What ``state.pt`` holds: tensors and plain values, so that ``weights_only=True`` loads it."""

    optimizer: dict[str, object]
    scaler: dict[str, float | int]
    guard: dict[str, int]
    random: RandomState
    loader: dict[str, str | int]
    position: dict[str, Plain]
    num_steps: int
    num_samples: int
    loss_sum: float
    lr_scale: float


def snapshot(
    learner: Learner, loader: Loader, position: Position, best: Tensors
) -> tuple[dict[str, Tensors], Mapping[str, object]]:
    """Take the weights by owner, and everything else."""
    weights: dict[str, Tensors] = {"model": learner.module.state_dict(), "best": best}
    if learner.ema is not None:
        weights["ema"] = learner.ema.module.state_dict()
    state: State = {
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "guard": learner.guard.state_dict(),
        "random": capture_random_state(),
        "loader": dict(loader.state_dict()),
        "position": position.state_dict(),
        "num_steps": learner.num_steps,
        "num_samples": learner.num_samples,
        "loss_sum": float(learner.loss_sum.item()),
        "lr_scale": learner.schedule.scale,
    }
    return weights, state


def restore(checkpoint: Checkpoint, learner: Learner, loader: Loader) -> tuple[Position, Tensors]:
    """Put learner, loader and random states back; return the position and the best weights."""
    state = cast("State", checkpoint.state)
    learner.module.load_state_dict(dict(checkpoint.weights["model"]))
    if learner.ema is not None:
        learner.ema.module.load_state_dict(dict(checkpoint.weights["ema"]))
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.scaler.load_state_dict(state["scaler"])
    learner.guard.load_state_dict(state["guard"])
    learner.num_steps, learner.num_samples = state["num_steps"], state["num_samples"]
    learner.loss_sum.fill_(state["loss_sum"])
    learner.schedule.scale = state["lr_scale"]
    learner.optimizer.zero_grad(set_to_none=True)
    loader.load_state_dict(state["loader"])
    restore_random_state(state["random"])
    best: Tensors = {name: torch.clone(t) for name, t in checkpoint.weights.get("best", {}).items()}
    return Position.from_state_dict(state["position"]), best
