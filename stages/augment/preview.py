"""Preview: a picture of augmented samples by class, as the model will see them."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.files import write_atomic
from stages.augment.loader import open_loader

PREVIEW_FILE = "preview.png"
MAX_CLASSES = 12
PER_CLASS = 8
_MAX_IMAGES = 4096
_TILE = 64
_TILE_MAX = 128
_GAP = 4
_LABEL_WIDTH = 120
_LABEL_CHARS = 18


def write_preview(spec: DataSpec, ctx: Context) -> str:
    """Draw the grid, and return the name of the file."""
    rows = collect_samples(spec, ctx)
    buffer = io.BytesIO()
    draw_grid(spec.classes, rows).save(buffer, format="PNG")
    write_atomic(ctx.dir / PREVIEW_FILE, buffer.getvalue())
    return PREVIEW_FILE


def collect_samples(spec: DataSpec, ctx: Context) -> dict[int, list[NDArray[np.uint8]]]:
    """Return up to `PER_CLASS` augmented images (H, W, C) of each of the first classes."""
    wanted = range(min(len(spec.classes), MAX_CLASSES))
    rows: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)
    seen = 0
    with closing(open_loader(spec, "train", device=ctx.device, seed=ctx.seed)) as loader:
        for batch in loader:
            ctx.stop.check()
            for image, target in zip(
                batch.inputs.cpu().numpy(), batch.targets.tolist(), strict=True
            ):
                if target in wanted and len(rows[target]) < PER_CLASS:
                    rows[target].append(image)
            seen += len(batch.inputs)
            if seen >= _MAX_IMAGES or all(len(rows[label]) == PER_CLASS for label in wanted):
                break
    return {label: rows[label] for label in wanted}


def draw_grid(classes: Sequence[str], rows: dict[int, list[NDArray[np.uint8]]]) -> Image.Image:
    """Return one row of pictures a class, its name in front."""
    first = next(image for images in rows.values() for image in images)
    height, width = _tile_size(*first.shape[:2])
    step_x, step_y = width + _GAP, height + _GAP
    grid = Image.new("RGB", (_LABEL_WIDTH + PER_CLASS * step_x, len(rows) * step_y), "white")
    pen = ImageDraw.Draw(grid)
    for row, (label, images) in enumerate(rows.items()):
        top = row * step_y
        pen.text((_GAP, top + height // 2), _short(classes[label]), fill="black", anchor="lm")
        for column, image in enumerate(images):
            picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            scaled = picture.convert("RGB").resize((width, height), _filter(picture.height, height))
            grid.paste(scaled, (_LABEL_WIDTH + column * step_x, top))
    return grid


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """Enlarge small images by a whole factor, shrink large ones to fit."""
    side = max(height, width)
    if side <= _TILE:
        factor = max(1, _TILE // side)
        return height * factor, width * factor
    scale = min(1.0, _TILE_MAX / side)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _filter(before: int, after: int) -> Image.Resampling:
    return Image.Resampling.NEAREST if after >= before else Image.Resampling.BOX


def _short(name: str) -> str:
    """Fit a class name into its column, in letters that Pillow's own font has."""
    plain = name.encode("latin-1", "replace").decode("latin-1")
    return plain if len(plain) <= _LABEL_CHARS else plain[: _LABEL_CHARS - 1] + "."
