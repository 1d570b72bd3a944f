"""Spectrograms of whole batches in torch: the CPU twin of DALI's audio operators.

Shapes: N clips, T samples of a clip, H bands, W frames.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from stages.augment.audio.features import LEVELS, AudioFeatures


class LogMel:
    """Turns waves into log-mel spectrograms."""

    def __init__(self, features: AudioFeatures, device: torch.device) -> None:
        self.features = features
        self._window = torch.from_numpy(features.hann()).to(device)
        self._bands = torch.from_numpy(features.bands()).to(device)  # (H, lines)

    def decibels(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (N, H, W) in dB from the floor up, the lowest band first."""
        features = self.features
        half = features.window // 2
        padded = F.pad(waves, (half, features.window - half))
        frames = padded.unfold(1, features.window, features.hop)
        spectrum = torch.fft.rfft(frames * self._window, n=features.fft)  # (N, W, lines)
        power = self._bands @ spectrum.abs().square().mT
        floor = 10 ** (features.floor_db / 10)
        return 10 * torch.log10((power / features.full_scale).clamp(min=floor))

    def __call__(self, waves: torch.Tensor) -> torch.Tensor:
        """Return uint8 (N, H, W, 1), the lowest band at the bottom."""
        floor = self.features.floor_db
        levels = (self.decibels(waves) - floor) * (LEVELS / -floor)
        return levels.round_().clamp_(0, LEVELS).to(torch.uint8).flip(1).unsqueeze(-1)
