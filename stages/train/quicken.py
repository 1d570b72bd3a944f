"""Quicken: a network's layers in the forms that suit the CPU they train on."""

from __future__ import annotations

from torch import nn

from stages.train.convolution import quicken_convolutions
from stages.train.maps.batch_norm import quicken_norms
from stages.train.maps.pooling import quicken_pooling
from stages.train.pointwise import multiply_pixels
from stages.train.quick_dropout import quicken_dropout


def quicken(module: nn.Module) -> None:
    """Let layers choose their kernels at each call; in place, the state dict stays."""
    quicken_convolutions(module)
    multiply_pixels(module)
    quicken_norms(module)
    quicken_pooling(module)
    quicken_dropout(module)
