"""Digits: scikit-learn's 1,797 handwritten digits, written out once as an image folder of PNGs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from stages.augment.split import stratified_split

EVAL_SHARE = 0.25
_WHITE = 16
"""The brightest value in the data; PNGs use 255."""


def write_digits(folder: Path, seed: int) -> None:
    """Write ``train/<digit>/*.png`` and ``eval/<digit>/*.png`` into `folder`, once."""
    if folder.exists():
        return
    from sklearn.datasets import load_digits  # heavy, and needed by this source alone

    digits = load_digits()
    images = np.round(digits.images * (255 / _WHITE)).astype(np.uint8)  # (N, 8, 8)
    labels = [int(label) for label in digits.target]
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    contents = [image.tobytes() for image in images]
    parts = stratified_split(labels, EVAL_SHARE, seed, groups=contents)
    for part, indices in zip(("train", "eval"), parts, strict=True):
        for index in indices:
            path = partial / part / str(labels[index]) / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(path)
    os.replace(partial, folder)
