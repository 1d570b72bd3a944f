"""ImageClassifier: a network that takes uint8 images as they leave the loader.

    uint8 (N, H, W, C) -> cast -> permute -> normalize -> body -> float logits (N, classes)

The cast stands first because TensorRT takes uint8 only where the first node casts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

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
        self.held: tuple[nn.Module, ...] = ()
        """Layers that stay in eval mode while the rest trains: frozen norms."""
        mean_c11 = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
        std_c11 = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        # (x / 255 - mean) / std as one multiplication and one addition. They are constants of the
        # data, given by the arguments of the factory, so they are no part of the weights.
        self.register_buffer("scale", (1 / (255 * std_c11)).float(), persistent=False)
        self.register_buffer("shift", (-mean_c11 / std_c11).float(), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of every layer but those that are held."""
        super().train(mode)
        for layer in self.held:
            layer.eval()
        return self

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (N, H, W, C) into normalized float32 (N, C, H, W)."""
        pixels = images.to(torch.float32, copy=True).permute(0, 3, 1, 2)  # ours to write to
        return pixels.mul_(self.scale).add_(self.shift)

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (N, H, W, C) into what the body takes, laid out as it wants it."""
        pixels = self.normalize(images)
        return pixels if self.channels_last else pixels.contiguous()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) for uint8 images (N, H, W, C)."""
        logits: torch.Tensor = self.body(self.prepare(images))
        return logits
