"""fast_convnet: a small network for small images that learns in few passes on two CPU cores.

    model: stages.train.models.fast:fast_convnet
    model_options: {base: 128, mirror: true}

It is drawn after Keller Jordan's airbench for CIFAR-10 (https://arxiv.org/abs/2404.00498), with
what a CPU changes. The frozen whitening layer moves in steps of two pixels, so that all layers work
on a quarter of the positions: at full resolution, batch norm and pooling cost as much as the
convolutions. ReLU takes the place of GELU, which costs four times as much.
"""

from __future__ import annotations

import torch
from torch import nn

from stages.train.models.small import conv_bn_relu
from stages.train.models.whitening import WhiteningConv


class Residual(nn.Module):
    """Add a convolution's answer to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.refine = conv_bn_relu(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        refined: torch.Tensor = self.refine(x)
        return x + refined


class Mirrored(nn.Module):
    """A network that, outside of training, answers for an image and its mirror image together.

    The mean of both logits is right more often, at twice the work. It is part of the network, so
    what is exported and served gives the accuracy that training reported.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to logits (N, classes)."""
        logits: torch.Tensor = self.network(x)
        if self.training:
            return logits
        mirrored: torch.Tensor = self.network(x.flip(3))
        return (logits + mirrored) * 0.5


def fast_convnet(classes: int, channels: int, base: int = 128, mirror: bool = False) -> nn.Module:
    """Build it for images of 8 pixels or more.

    Args:
        classes: how many there are.
        channels: of the images.
        base: channels at a quarter of the resolution; at an eighth there are twice as many.
        mirror: whether eval answers for an image and its mirror image together.
    """
    stem = WhiteningConv(channels, kernel_size=4, stride=2)
    network = nn.Sequential(
        stem,
        nn.ReLU(inplace=True),
        Residual(stem.out_channels),
        nn.MaxPool2d(2),
        conv_bn_relu(stem.out_channels, base),
        Residual(base),
        nn.MaxPool2d(2),
        conv_bn_relu(base, 2 * base),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * base, classes, bias=False),
    )
    return Mirrored(network) if mirror else network
