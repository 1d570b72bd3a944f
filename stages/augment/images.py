"""Decoding and holding images: what the torch backends start from."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.errors import DataError
from stages.augment.damage import DamagedSample
from stages.augment.reader import ArrayReader, FileReader

MAX_HELD_BYTES = 4 << 30
"""The array backend refuses to hold more decoded pixels than this."""


class DamagedImage(DamagedSample):
    """One image of a batch cannot be decoded."""

    noun = "image"


def decode_pil(encoded: bytes, channels: int) -> NDArray[np.uint8]:
    """Decode to (H, W, C) with Pillow, whatever format it knows."""
    with Image.open(io.BytesIO(encoded)) as image:
        mode = "L" if channels == 1 else "RGB"
        image.draft(mode, image.size)  # a JPEG's gray is its luma as it stands in the file
        pixels = np.array(ImageOps.exif_transpose(image).convert(mode))
    return pixels.reshape(*pixels.shape[:2], channels)


def match_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Turn (N, H, W, C) to the wanted channels: gray to equal RGB, RGB to its luma (ITU-R 601)."""
    if images.shape[-1] == channels:
        return images
    if images.shape[-1] == 1:
        return images.expand(*images.shape[:-1], channels)
    if images.shape[-1] == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
        return (images.float() @ weights).round().to(torch.uint8).unsqueeze(-1)
    raise DataError(
        f"images have {images.shape[-1]} channels and {channels} are wanted. Allowed: 1 or 3."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImages:
    """Every image of a split, decoded: padded at the right and at the bottom where sizes differ."""

    pixels: NDArray[np.uint8]  # (N, H, W, C), mapped into memory where the reader does so
    sizes: NDArray[np.int64]  # (N, 2) height, width
    damaged: frozenset[int] = frozenset()

    def batch(self, positions: NDArray[np.int64], channels: int) -> torch.Tensor:
        """Return (N, H, W, C) uint8."""
        return match_channels(torch.from_numpy(self.pixels[positions]), channels)


def hold_images(
    reader: ArrayReader | FileReader,
    channels: int,
    on_damaged: Callable[[DamagedImage], None],
    *,
    threads: int = 2,
) -> DecodedImages:
    """Decode a whole split into memory, or map the array it already is.

    Args:
        reader: the split.
        channels: 1 or 3.
        on_damaged: called for each image that cannot be decoded; may raise.
        threads: how many images are decoded at a time.

    Raises:
        DataError: the images would not fit.
    """
    if isinstance(reader, ArrayReader):
        n, height, width, _ = reader.images.shape
        return DecodedImages(pixels=reader.images, sizes=np.tile([height, width], (n, 1)))

    def decode(position: int) -> NDArray[np.uint8] | DamagedImage:
        try:
            return decode_pil(reader.read(position), channels)
        except (OSError, ValueError, SyntaxError) as error:
            return DamagedImage(position, reader.name(position), str(error))

    with ThreadPoolExecutor(threads) as pool:
        return _pack(pool.map(decode, range(len(reader.labels))), channels, on_damaged)


def _pack(
    decoded: Iterable[NDArray[np.uint8] | DamagedImage],
    channels: int,
    on_damaged: Callable[[DamagedImage], None],
) -> DecodedImages:
    images: list[NDArray[np.uint8]] = []
    damaged: set[int] = set()
    for image in decoded:
        if isinstance(image, DamagedImage):
            on_damaged(image)
            damaged.add(image.position)
            images.append(np.zeros((1, 1, channels), dtype=np.uint8))
        else:
            images.append(image)
    sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
    height, width = sizes.max(axis=0)
    if len(images) * int(height) * int(width) * channels > MAX_HELD_BYTES:
        raise DataError(
            f"backend array: {len(images)} images of up to {width}x{height} would take more than "
            f"{MAX_HELD_BYTES >> 30} GB decoded. Use backend: torchvision or dali-cpu."
        )
    pixels = np.zeros((len(images), height, width, channels), dtype=np.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return DecodedImages(pixels=pixels, sizes=sizes, damaged=frozenset(damaged))
