"""The array backend: small images held in memory, transformed a whole batch at a time in torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.device import Device
from stages.augment.images import DamagedImage, DecodedImages, hold_images
from stages.augment.pixels import apply_pixel_operations
from stages.augment.plan import Plan, draw
from stages.augment.reader import ArrayReader, FileReader
from stages.augment.resample import resample


class ArrayExecutor:
    """Transforms batches of one split."""

    depth = 1

    def __init__(
        self,
        reader: ArrayReader | FileReader,
        plan: Plan,
        device: Device,
        on_damaged: Callable[[DamagedImage], None],
    ) -> None:
        self._plan = plan
        self._device = torch.device(str(device))
        self._images: DecodedImages = hold_images(reader, plan.channels, on_damaged)
        self._waiting: deque[tuple[NDArray[np.int64], Sequence[int]]] = deque()

    def submit(self, positions: NDArray[np.int64], key: Sequence[int]) -> None:
        """Put a batch into the queue."""
        self._waiting.append((positions, key))

    def collect(self) -> torch.Tensor:
        """Return the images (N, H, W, C) of the oldest batch in the queue."""
        positions, key = self._waiting.popleft()
        sizes = self._images.sizes[positions]
        draws = draw(self._plan, sizes, key)
        source = self._images.batch(positions, self._plan.channels).to(self._device)
        images = resample(source, draws.placement, self._plan)
        return apply_pixel_operations(images, self._plan, draws)

    def drain(self) -> None:
        """Forget what is in the queue."""
        self._waiting.clear()

    def close(self) -> None:
        """Free the images."""
        self.drain()


def open_executor(
    reader: ArrayReader | FileReader,
    plan: Plan,
    device: Device,
    batch_size: int,
    on_damaged: Callable[[DamagedImage], None],
) -> ArrayExecutor:
    """Open this backend over one split."""
    return ArrayExecutor(reader, plan, device, on_damaged)
