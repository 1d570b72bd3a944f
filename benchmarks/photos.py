"""Photos: generated JPEGs that cost as much to decode as photographs do.

Their spectrum falls with frequency as that of photographs does; smooth or uniform pictures would
decode much faster and flatter every loader. Shapes: H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = 4
PHOTO = (375, 500)
LARGE_PHOTO = (1800, 2400)
QUALITY = 90
_CANVAS = (1200, 1600)
_MEAN, _DEVIATION = 128, 36


@dataclass(frozen=True, slots=True)
class Photo:
    """One file and its class."""

    path: Path
    label: int


def canvas(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Draw an image (H, W, 3) whose amplitude falls as one over the frequency."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width)))
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.hypot(y, x).clip(1 / max(height, width))
    pixels = np.fft.irfft2(spectrum * amplitude, s=(height, width))
    pixels = (pixels - pixels.mean()) / pixels.std() * _DEVIATION + _MEAN
    drawn: NDArray[np.uint8] = pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return drawn


def write_photos(
    folder: Path, count: int, size: tuple[int, int] = PHOTO, seed: int = 0
) -> list[Photo]:
    """Write `count` JPEGs of a size (H, W) below ``folder/class_0``, ... and return them."""
    height, width = size
    drawn = tuple(max(wanted, side + side // 8) for wanted, side in zip(_CANVAS, size, strict=True))
    whole, rng = canvas(seed, *drawn), np.random.default_rng(seed)
    photos: list[Photo] = []
    for number in range(count):
        label = number % CLASSES
        parent = folder / f"class_{label}"
        parent.mkdir(parents=True, exist_ok=True)
        top = int(rng.integers(0, drawn[0] - height + 1))
        left = int(rng.integers(0, drawn[1] - width + 1))
        path = parent / f"{number:05d}.jpg"
        cut = whole[top : top + height, left : left + width]
        Image.fromarray(cut).save(path, "JPEG", quality=QUALITY)
        photos.append(Photo(path, label))
    return photos


def mean_kilobytes(photos: Sequence[Photo]) -> float:
    """Return the mean size of the files in kB."""
    return sum(photo.path.stat().st_size for photo in photos) / len(photos) / 1e3


def small_images(seed: int, count: int, side: int, channels: int) -> NDArray[np.uint8]:
    """Cut `count` images (count, side, side, channels) out of one drawing."""
    whole, rng = canvas(seed, *_CANVAS), np.random.default_rng(seed)
    tops = rng.integers(0, _CANVAS[0] - side, count)
    lefts = rng.integers(0, _CANVAS[1] - side, count)
    cuts = [
        whole[top : top + side, left : left + side, :channels]
        for top, left in zip(tops, lefts, strict=True)
    ]
    return np.stack(cuts)
