"""A network of your own in the chain:  dlpipe run examples/own_model/config.yaml

The factory takes what it needs of ``classes``, ``height``, ``width`` and ``channels``, and returns
a module that maps normalized float images (N, C, H, W) to logits (N, classes).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


class TinyNet(nn.Module):
    """Three convolutions and a linear layer."""

    def __init__(self, classes: int, channels: int, width: int = 32) -> None:
        super().__init__()
        sizes = [channels, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) for images (N, C, H, W)."""
        return self.head(self.features(images).mean(dim=(2, 3)))


def build(classes: int, channels: int, base_width: int = 32) -> nn.Module:
    """Return the network; `base_width` comes from ``model_options`` in the YAML."""
    return TinyNet(classes, channels, base_width)
