"""Networks for several ranks: without batch norm, with it, and what they do at a given step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import torch
from torch import nn

steps = 0
"""Training steps of this process."""


def nothing() -> None:
    pass


on_step: Callable[[], None] = nothing


class Net(nn.Module):
    """Two small blocks and a head; counts its training steps, and can end at one."""

    def __init__(
        self, classes: int, channels: int, norm: str, dropout: float, nan_at: int, crash_at: int
    ) -> None:
        super().__init__()
        norms = [nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(2, 8) for _ in range(2)]
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), norms[0], nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norms[1], nn.ReLU(), nn.AvgPool2d(2)),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * 16, classes))
        self.nan_at, self.crash_at = nan_at, crash_at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.blocks(x))
        if self.training and torch.is_grad_enabled():
            global steps
            steps += 1
            if steps == int(os.environ.get("KILL_AT", "0")):
                os.kill(os.getpid(), signal.SIGKILL)
            if steps == int(os.environ.get("STOP_AT", "0")):
                on_step()
            if steps == self.crash_at and os.environ["RANK"] == "1":
                raise RuntimeError("this network crashes on purpose")
            if steps == self.nan_at and os.environ.get("RANK", "0") != "0":
                return logits * float("nan")
        return logits


def net(
    classes: int,
    channels: int,
    norm: str = "group",
    dropout: float = 0.0,
    nan_at: int = 0,
    crash_at: int = 0,
) -> nn.Module:
    return Net(classes, channels, norm, dropout, nan_at, crash_at)
