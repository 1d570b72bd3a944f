"""Loaders that are compared: each opens an endless stream of image batches over the same photos."""

from __future__ import annotations

from collections.abc import Iterator

import torch

SIZE = 224
"""Height and width that every loader hands over."""
CROP_SCALE = (0.08, 1.0)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Batches = Iterator[torch.Tensor]
"""Images: (N, H, W, C) uint8, or (N, C, H, W) float32 that are normalized."""


def as_levels(images: torch.Tensor) -> torch.Tensor:
    """Return either kind of batch as grey levels from 0 to 255 (N, C, H, W), for comparison."""
    if images.dtype == torch.uint8:
        return images.permute(0, 3, 1, 2).float()
    channels = images.shape[1]
    mean = torch.tensor(MEAN[:channels]).view(-1, 1, 1)
    std = torch.tensor(STD[:channels]).view(-1, 1, 1)
    return (images * std + mean) * 255
