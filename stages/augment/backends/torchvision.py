"""The torchvision backend: images are decoded and resampled one by one, on threads.

libjpeg-turbo decodes (torchvision's own decoders are deprecated since 0.29), so that photos much
larger than the target come out at 1/2, 1/4 or 1/8: by simplejpeg where it is installed, else and
for all other formats by Pillow, with the same pixels. The resample is what torchvision's v2 calls.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.backend import is_installed
from pipeline.device import Device
from stages.augment.encoded import ORIENTATION, EncodedImages
from stages.augment.geometry import Placement
from stages.augment.images import DamagedImage, match_channels
from stages.augment.pixels import apply_pixel_operations
from stages.augment.plan import Draws, Plan, draw, reduction
from stages.augment.reader import ArrayReader, FileReader
from stages.augment.resample import resample


@dataclass(frozen=True, slots=True)
class _Started:
    """A batch whose images are being made."""

    positions: NDArray[np.int64]
    draws: Draws
    images: list[Future[torch.Tensor]]


class TorchvisionExecutor:
    """Transforms batches of one split."""

    depth = 2

    def __init__(
        self, reader: ArrayReader | FileReader, plan: Plan, device: Device, threads: int
    ) -> None:
        self._reader = reader
        self._encoded = None if isinstance(reader, ArrayReader) else EncodedImages(reader)
        self._turbo = _open_turbo()
        self._plan = plan
        self._device = torch.device(str(device))
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._waiting: deque[Future[_Started]] = deque()

    def submit(self, positions: NDArray[np.int64], key: Sequence[int]) -> None:
        """Put a batch into the queue."""
        self._waiting.append(self._reading.submit(self._start, positions, key))

    def collect(self) -> torch.Tensor:
        """Return the images (N, H, W, C) of the oldest batch in the queue."""
        started = self._waiting.popleft().result()
        images = torch.cat([image.result() for image in started.images]).to(self._device)
        return apply_pixel_operations(images, self._plan, started.draws)

    def drain(self) -> None:
        """Forget what is in the queue."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.cancel() and waiting.exception() is None:
                for image in waiting.result().images:
                    image.cancel()

    def close(self) -> None:
        """Stop the threads."""
        self.drain()
        self._reading.shutdown()
        self._decoding.shutdown()

    def _start(self, positions: NDArray[np.int64], key: Sequence[int]) -> _Started:
        if self._encoded is None:
            assert isinstance(self._reader, ArrayReader)
            arrays = self._reader.images[positions]
            sizes = np.tile(arrays.shape[1:3], (len(arrays), 1))
            draws = draw(self._plan, sizes, key)
            jobs = [
                self._decoding.submit(self._from_array, array, draws, row)
                for row, array in enumerate(arrays)
            ]
        else:
            files, sizes = self._encoded.fetch(positions)
            draws = draw(self._plan, sizes, key)
            jobs = [
                self._decoding.submit(self._from_file, file, int(position), draws, row)
                for row, (file, position) in enumerate(zip(files, positions, strict=True))
            ]
        return _Started(positions, draws, jobs)

    def _from_array(self, array: NDArray[np.uint8], draws: Draws, row: int) -> torch.Tensor:
        image = match_channels(torch.from_numpy(array[None]), self._plan.channels)
        return resample(image, draws.placement.row(row), self._plan)

    def _from_file(self, file: bytes, position: int, draws: Draws, row: int) -> torch.Tensor:
        assert self._encoded is not None
        at = draws.placement.row(row)
        try:
            if self._turbo is not None and self._encoded.is_plain_jpeg(position):
                return self._turbo(file, self._plan, at)
            return transform_file(file, self._plan, at)
        except (OSError, ValueError, SyntaxError, RuntimeError) as error:
            raise self._encoded.damaged(position, str(error).splitlines()[0]) from error


def _open_turbo() -> Callable[[bytes, Plan, Placement], torch.Tensor] | None:
    if not is_installed("simplejpeg"):
        return None
    from stages.augment.backends.turbo import transform_jpeg

    return transform_jpeg


def transform_file(file: bytes, plan: Plan, placement: Placement) -> torch.Tensor:
    """Decode one file and lay it onto the target: (1, H, W, C)."""
    mode = "L" if plan.channels == 1 else "RGB"
    with Image.open(io.BytesIO(file)) as image:
        upright = image.getexif().get(ORIENTATION, 1) == 1
        if upright:
            full, scale = image.size, reduction(plan, placement)
            # For a JPEG, libjpeg takes the nearest of 1, 1/2, 1/4 and 1/8 that is not smaller.
            image.draft(mode, (full[0] // scale, full[1] // scale))
            placement = placement.rescaled(full, image.size)
        shown = image if upright else ImageOps.exif_transpose(image)
        # Cropping comes before conversion, so that only what is used gets copied.
        part = shown.crop(tuple(placement.box[0].tolist()))
        pixels = np.array(part.convert(mode))
    source = torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], plan.channels))
    return resample(source, placement.at_origin(), plan)


def open_executor(
    reader: ArrayReader | FileReader,
    plan: Plan,
    device: Device,
    batch_size: int,
    on_damaged: Callable[[DamagedImage], None],
) -> TorchvisionExecutor:
    """Open this backend over one split."""
    return TorchvisionExecutor(reader, plan, device, threads=min(4, os.cpu_count() or 1))
