"""Weights: bytes that a parameter costs beside activations: itself, gradient, optimizer, average.

parameter_bytes(config).total       # AdamW with a moving average: 4 + 4 + 8 + 4
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from stages.train.config import TrainConfig
from stages.train.gpipe.chain import Block
from stages.train.optim import build_optimizer

_SIDE = 64
"""Of the matrix on which an optimizer shows what it keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterBytes:
    """Bytes for each parameter (one number of a weight)."""

    weight: float = 4
    gradient: float = 4
    optimizer: float = 8
    average: float = 0

    @property
    def total(self) -> float:
        """All of them."""
        return self.weight + self.gradient + self.optimizer + self.average

    def of(self, blocks: Iterable[Block]) -> int:
        """Return the bytes of these blocks' parameters and buffers; what is shared counts once."""
        modules = nn.ModuleList([block.module for block in blocks])
        buffers = sum(buffer.nbytes for buffer in modules.buffers())
        return round(self.total * num_parameters(blocks) + buffers)


def num_parameters(blocks: Iterable[Block]) -> int:
    """Return how many numbers the blocks learn; what is shared counts once."""
    return sum(p.numel() for p in nn.ModuleList([b.module for b in blocks]).parameters())


def parameter_bytes(config: TrainConfig) -> ParameterBytes:
    """Return what training with this configuration takes; the optimizer shows it on a matrix."""
    matrix = nn.Linear(_SIDE, _SIDE, bias=False)
    same_rate = config.optimizer.model_copy(update={"layer_decay": None})  # it costs no bytes
    optimizer = build_optimizer(matrix, same_rate)
    matrix.weight.grad = torch.ones_like(matrix.weight)
    optimizer.step()
    state = optimizer.state[matrix.weight].values()
    kept = sum(
        value.nbytes for value in state if isinstance(value, torch.Tensor) and value.numel() > 1
    )
    return ParameterBytes(optimizer=kept / matrix.weight.numel(), average=4 if config.ema else 0)
