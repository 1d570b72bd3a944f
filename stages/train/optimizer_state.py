"""Optimizer state by the names of parameters, whole: the same for any number of processes."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import nn

from stages.train.layout import Layout, Remembered, Value


class OptimizerState(TypedDict):
    """What an optimizer remembers; ``weights_only=True`` loads it."""

    state: Remembered
    groups: list[dict[str, object]]
    """The settings of each parameter group; ``params`` holds names."""


def save_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, layout: Layout
) -> OptimizerState:
    """Return the state of an optimizer over a module's parameters (collective)."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    state: Remembered = {}
    groups = []
    for group in optimizer.param_groups:
        settings = {key: value for key, value in group.items() if key != "params"}
        groups.append({**settings, "params": [names[id(p)] for p in group["params"]]})
        for parameter in group["params"]:
            own = optimizer.state.get(parameter)
            if own and layout.is_own(names[id(parameter)]):
                tensors = {k: v for k, v in own.items() if isinstance(v, torch.Tensor)}
                state[names[id(parameter)]] = {**own, **layout.whole(tensors)}
    return {"state": layout.merged(state), "groups": groups}


def load_optimizer(
    saved: OptimizerState, optimizer: torch.optim.Optimizer, module: nn.Module, layout: Layout
) -> None:
    """Give an optimizer back what it remembered."""
    parameters = dict(module.named_parameters())
    numbers = {name: number for number, name in enumerate(_order(saved))}
    state = {
        numbers[name]: {key: _placed(value, parameters[name], layout) for key, value in own.items()}
        for name, own in saved["state"].items()
        if layout.is_own(name)
    }
    groups = [
        {**group, "params": [numbers[str(name)] for name in _names(group)]}
        for group in saved["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _order(saved: OptimizerState) -> list[str]:
    return [name for group in saved["groups"] for name in _names(group)]


def _names(group: dict[str, object]) -> list[str]:
    names = group["params"]
    assert isinstance(names, list)
    return names


def _placed(value: Value, parameter: torch.Tensor, layout: Layout) -> Value:
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    # Fused kernels run over raw memory, so a state has to lie there exactly as its parameter does;
    # the checkpoint may come from a layout in which that was in another order of the axes.
    placed = layout.placed(value.contiguous(), parameter)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(placed)
