"""Classifier: a network that takes samples as they leave the loader.

    images   uint8 (N, H, W, C) -> cast -> permute -> normalize -> body -> float logits (N, classes)
    texts    int32 (N, L) ---------------------------------------> body -> float logits (N, classes)

The cast stands first because TensorRT takes uint8 only where the first node casts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn


class Classifier(nn.Module):
    """A body behind what turns a batch of the loader into what it takes."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.channels_last = True
        """Whether the body gets its images with channels last in memory, as they lie already."""
        self.held: tuple[nn.Module, ...] = ()
        """Layers that stay in eval mode while the rest trains: frozen norms."""

    def train(self, mode: bool = True) -> Self:
        """Set the mode of every layer but those that are held."""
        super().train(mode)
        for layer in self.held:
            layer.eval()
        return self

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn a batch of the loader into what the body takes."""
        return batch

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        logits: torch.Tensor = self.body(self.prepare(batch))
        return logits


class TextClassifier(Classifier):
    """A body that takes token numbers, int32 (N, L), filled up at the end."""


class ImageClassifier(Classifier):
    """A body of convolutions or attention behind the cast and the normalization."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(body)
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

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (N, H, W, C) into what the body takes, laid out as it wants it."""
        pixels = self.normalize(batch)
        return pixels if self.channels_last else pixels.contiguous()
