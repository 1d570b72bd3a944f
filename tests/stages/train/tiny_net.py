"""A network of our own, as a user would write one: the tests name it by its dotted path.

It can fail on purpose: give a NaN, or end its own process with SIGKILL, at a given training step.
"""

from __future__ import annotations

import os
import signal

import torch
from torch import nn

steps_seen = 0
"""Training steps of this process, over all networks."""


class TinyNet(nn.Module):
    def __init__(self, classes: int, channels: int, nan_at: int, nan_until: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * 16, classes))
        self.nan_at, self.nan_until = nan_at, nan_until

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        if not (self.training and torch.is_grad_enabled()):
            return logits
        global steps_seen
        steps_seen += 1
        if steps_seen == int(os.environ.get("KILL_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return logits * float("nan") if self.nan_at <= steps_seen <= self.nan_until else logits


def tiny_net(classes: int, channels: int, nan_at: int = 0, nan_until: int = -1) -> nn.Module:
    return TinyNet(classes, channels, nan_at, nan_until)


def not_a_module(classes: int) -> str:
    return f"{classes} classes"


def wrong_output(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))
