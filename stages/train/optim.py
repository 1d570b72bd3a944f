"""Optimizer: built by timm's name, fused where the kernel exists."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from timm.optim._optim_factory import (
    create_optimizer_v2,
    get_optimizer_class,
    list_optimizers,
)
from torch import nn

from pipeline.errors import ConfigError, nearest
from stages.train.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer; weight decay leaves biases and norms alone.

    Raises:
        ConfigError: timm knows no such optimizer, it is not installed, or it lacks a setting.
    """
    names = [str(name) for name in list_optimizers()]
    if config.name not in names:
        raise ConfigError(
            f"stages.train.optimizer.name: '{config.name}' is no optimizer of timm. "
            f"Allowed: {', '.join(names)}.{nearest(config.name, names)}"
        )
    if config.lr == "auto":
        raise ConfigError(
            "stages.train.optimizer.lr: 'auto' has to be searched before the optimizer is built, "
            "by one process. Write a rate."
        )
    takes = _parameters_of(config.name)
    settings: dict[str, Any] = {}
    if config.betas is not None:
        _require("betas", config.name, takes)
        settings["betas"] = tuple(config.betas)
    if config.momentum is not None:
        _require("momentum", config.name, takes)
        settings["momentum"] = config.momentum
    if "fused" in takes:
        settings["fused"] = True
    if config.layer_decay is not None:
        _require_layers(module)
        settings["layer_decay"] = config.layer_decay
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        module, config.name, lr=config.lr, weight_decay=config.weight_decay, **settings
    )
    return optimizer


def skips_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether the optimizer's kernel leaves everything alone when ``found_inf`` is set."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _parameters_of(name: str) -> frozenset[str]:
    try:
        kind = get_optimizer_class(name, bind_defaults=False)
        return frozenset(inspect.signature(kind).parameters)
    except (ImportError, AssertionError) as error:
        raise ConfigError(
            f"stages.train.optimizer.name: '{name}' cannot be used here: {error}. "
            "Install its package, or use 'adamw' or 'sgd'."
        ) from error


def _require_layers(module: nn.Module) -> None:
    if not hasattr(module, "group_matcher"):
        raise ConfigError(
            f"stages.train.optimizer.layer_decay: {type(module).__name__} does not say which "
            "parameters make a layer. Give it the method group_matcher(coarse) that timm's models "
            "have, or leave layer_decay out."
        )


def _require(setting: str, name: str, takes: frozenset[str]) -> None:
    if setting not in takes:
        raise ConfigError(
            f"stages.train.optimizer.{setting}: '{name}' has no {setting}. Remove it, or use one "
            f"that has it ('{'sgd' if setting == 'momentum' else 'adamw'}')."
        )
