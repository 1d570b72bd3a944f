"""ImageClassifier: a network that takes uint8 images as they leave the loader.

    uint8 (N, H, W, C) -> cast -> permute -> normalize -> body -> float logits (N, classes)

The cast stands first because TensorRT takes uint8 only where the first node casts it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class ImageClassifier(nn.Module):
    """A body of convolutions or attention behind the cast and the normalization."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.channels_last = True
        """Whether the body gets its images with channels last in memory, as they lie already."""
        mean_c11 = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
        std_c11 = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        # (x / 255 - mean) / std as one multiplication and one addition. They are constants of the
        # data, given by the arguments of the factory, so they are no part of the weights.
        self.register_buffer("scale", (1 / (255 * std_c11)).float(), persistent=False)
        self.register_buffer("shift", (-mean_c11 / std_c11).float(), persistent=False)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (N, H, W, C) into normalized float32 (N, C, H, W)."""
        pixels = images.to(torch.float32, copy=True).permute(0, 3, 1, 2)  # ours to write to
        return pixels.mul_(self.scale).add_(self.shift)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) for uint8 images (N, H, W, C)."""
        pixels = self.normalize(images)
        if not self.channels_last:
            pixels = pixels.contiguous()
        logits: torch.Tensor = self.body(pixels)
        return logits
