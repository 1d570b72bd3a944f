"""Mixup and cutmix: blend each image of a batch with a partner from the same batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stages.augment.batch import Mix
from stages.augment.operations import Cutmix, Mixup


def mix_batch(
    images: torch.Tensor, operations: Sequence[Mixup | Cutmix], key: Sequence[int]
) -> tuple[torch.Tensor, Mix | None]:
    """Blend a batch (N, H, W, C) by one of the operations, drawn by `key`, or leave it as it is."""
    rng = np.random.default_rng(list(key))
    operation = operations[int(rng.integers(len(operations)))]
    if rng.random() >= operation.p:
        return images, None
    n = len(images)
    partner = torch.from_numpy(rng.permutation(n)).to(images.device)
    weight = rng.beta(operation.alpha, operation.alpha, n).astype(np.float32)
    if isinstance(operation, Mixup):
        share = torch.from_numpy(weight).to(images.device)
        mixed = _blend(images, images[partner], share)
    else:
        mixed, share = _paste(images, images[partner], weight, rng)
    return mixed, Mix(partner=partner, weight=share)


def _blend(own: torch.Tensor, other: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    mixed = torch.lerp(other.float(), own.float(), share[:, None, None, None])
    return mixed.round_().clamp_(0, 255).to(torch.uint8)


def _paste(
    own: torch.Tensor, other: torch.Tensor, weight: NDArray[np.float32], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste a rectangle of the share 1 - weight; returns the share of own pixels that is left."""
    n, height, width = own.shape[:3]
    side = np.sqrt(1.0 - weight)
    tall, wide = np.round(side * height), np.round(side * width)
    top = np.floor(rng.random(n) * (height - tall + 1))
    left = np.floor(rng.random(n) * (width - wide + 1))
    first_row, first_column, tall_, wide_ = (
        torch.from_numpy(a).to(own.device)[:, None] for a in (top, left, tall, wide)
    )
    rows = torch.arange(height, device=own.device)
    columns = torch.arange(width, device=own.device)
    in_rows = (rows >= first_row) & (rows < first_row + tall_)
    in_columns = (columns >= first_column) & (columns < first_column + wide_)
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    mixed = torch.where(inside[..., None], other, own)
    share = 1.0 - inside.flatten(1).float().mean(dim=1)
    return mixed, share
