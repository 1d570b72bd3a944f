"""Stem: the first layers of a network, and their form for small images."""

from __future__ import annotations

from torch import nn

SMALL_IMAGE_PX = 64


def has_large_stem(body: nn.Module) -> bool:
    """Tell whether a network starts like a ResNet: a strided 7x7 convolution, then a max-pool."""
    conv = getattr(body, "conv1", None)
    pool = getattr(body, "maxpool", None)
    if not (isinstance(conv, nn.Conv2d) and isinstance(pool, nn.MaxPool2d)):
        return False
    return conv.kernel_size == (7, 7) and conv.stride == (2, 2)


def shrink_stem(body: nn.Module) -> None:
    """Replace that stem by one 3x3 convolution of stride 1 and no pooling, in place.

    At 32 px the large stem leaves 8x8 positions before the first block; this one leaves 32x32.
    """
    old = body.conv1
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(
        old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=old.bias is not None
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    body.conv1 = new
    body.maxpool = nn.Identity()
