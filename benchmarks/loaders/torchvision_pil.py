"""torchvision as most people write it: `ImageFolder`, v2 transforms, worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.loaders import CROP_SCALE, MEAN, SIZE, STD, Batches

Sample = tuple[torch.Tensor, int]
_LISTED = 1000
"""How often an epoch lists each sample: long enough that no epoch ends in a measurement."""


class Transform(Protocol):
    """What v2 composes."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image that the model sees."""
        ...


class PerSample(Dataset[Sample]):
    """Small images held as one tensor (N, C, H, W), transformed one by one."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Transform) -> None:
        self._held = TensorDataset(images, labels)
        self._transform = transform

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, index: int) -> Sample:
        image, label = self._held[index]
        return self._transform(image), int(label)


def train_transform(size: int, channels: int, *, crop: bool = True) -> Transform:
    """Return random resized crop (or resize), flip, and normalization to float32."""
    composed: Transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=CROP_SCALE) if crop else v2.Resize((size, size)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN[:channels], STD[:channels]),
        ]
    )
    return composed


def photo_batches(folder: Path, batch_size: int, workers: int, *, crop: bool = True) -> Batches:
    """Yield batches of photos decoded by Pillow, from worker processes, without end."""
    dataset = ImageFolder(str(folder), transform=train_transform(SIZE, 3, crop=crop))
    return _batches(dataset, batch_size, workers)


def array_batches(images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> Batches:
    """Yield batches of small images (N, C, H, W) in this process, without end."""
    transform = train_transform(images.shape[-1], images.shape[1])
    return _batches(PerSample(images, labels, transform), batch_size, workers=0)


def _batches(dataset: Dataset[Sample], batch_size: int, workers: int) -> Iterator[torch.Tensor]:
    loader: DataLoader[Sample] = DataLoader(
        ConcatDataset([dataset] * _LISTED),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
    )
    while True:
        for images, _ in loader:
            yield images
