"""small_resnet: a residual network for small images, ready in a minute on two CPU cores.

model: stages.train.models.small:small_resnet
model_options: {base: 32}
"""

from __future__ import annotations

import torch
from torch import nn


class Stage(nn.Module):
    """Halve the image, widen the channels, then refine them by one residual convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.widen = conv_bn_relu(in_channels, out_channels)
        self.halve = nn.MaxPool2d(2)
        self.refine = conv_bn_relu(out_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in, H, W) to (N, out, H/2, W/2)."""
        x = self.halve(self.widen(x))
        refined: torch.Tensor = self.refine(x)
        return x + refined


def conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3x3 convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def small_resnet(classes: int, channels: int, base: int = 32) -> nn.Module:
    """Build three stages of `base`, 2 `base` and 4 `base` channels, and a linear head."""
    return nn.Sequential(
        Stage(channels, base),
        Stage(base, 2 * base),
        Stage(2 * base, 4 * base),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * base, classes),
    )
