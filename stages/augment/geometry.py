"""Placement: where in its source image each pixel of a batch comes from.

Cutting, stretching, mirroring, turning and shearing are all affine, so a chain of them is one
matrix and costs one resample. Coordinates are continuous, x before y, with (0, 0) at the outer
corner of the first pixel.

Shapes: N samples; a box is x0, y0, x1, y1 in whole source pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stages.augment.operations import (
    Affine,
    CenterCrop,
    Flip,
    Geometry,
    RandomResizedCrop,
    Resize,
    Rotate,
)

Matrices = NDArray[np.float64]  # (N, 3, 3)

_CROP_TRIES = 10
_MARGIN = 2
"""Pixels around a warped region, so that interpolation at its rim finds its neighbours."""

_FILTER_FROM = 1.5
"""How much a warp has to shrink an image before a filtered resize comes first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Which part of each source is taken, and how it is laid onto the target."""

    box: NDArray[np.int64]  # (N, 4)
    flip: NDArray[np.bool_]  # (N, 2): mirrored along x, along y
    inner: NDArray[np.int64] | None = None  # (N, 2): height and width the box is shrunk to first
    matrix: NDArray[np.float32] | None = None  # (N, 2, 3): target coordinates -> shrunk box

    def row(self, i: int) -> Placement:
        """Return the placement of one sample."""
        return Placement(
            box=self.box[i : i + 1],
            flip=self.flip[i : i + 1],
            inner=None if self.inner is None else self.inner[i : i + 1],
            matrix=None if self.matrix is None else self.matrix[i : i + 1],
        )

    def reach(self, target: tuple[int, int]) -> float:
        """Return how many source pixels a target pixel spans, at least, along either side."""
        height, width = (self.box[:, 3] - self.box[:, 1]), (self.box[:, 2] - self.box[:, 0])
        if self.inner is not None:
            return float(np.minimum(height / self.inner[:, 0], width / self.inner[:, 1]).min())
        return float(np.minimum(height / target[0], width / target[1]).min())

    def rescaled(self, full: tuple[int, int], size: tuple[int, int]) -> Placement:
        """Return the same placement for sources decoded at another size; both are width, height."""
        if full == size:
            return self
        factor = np.array(size) / np.array(full)
        first = np.minimum(np.round(self.box[:, :2] * factor), np.array(size) - 1)
        last = np.clip(np.round(self.box[:, 2:] * factor), first + 1, size)
        return replace(self, box=np.concatenate([first, last], axis=1).astype(np.int64))

    def at_origin(self) -> Placement:
        """Return the same placement for sources of which only the box was kept."""
        size = self.box[:, 2:] - self.box[:, :2]
        return replace(self, box=np.concatenate([np.zeros_like(size), size], axis=1))


def place(
    operations: Sequence[Geometry],
    sizes: NDArray[np.int64],
    *,
    target: tuple[int, int],
    rng: np.random.Generator,
) -> Placement:
    """Draw and compose the geometry of a batch of images of `sizes` (N, 2) height, width."""
    canvas = sizes[:, ::-1].astype(np.float64)  # (N, 2) width, height, as x comes before y
    goal = np.broadcast_to(np.array(target[::-1], dtype=np.float64), canvas.shape)
    forward = Forward(np.ones_like(canvas), np.zeros_like(canvas))
    for operation in operations:
        if isinstance(operation, Rotate | Affine):
            forward = forward.then_warp(_draw_warp(operation, canvas, rng))
        else:
            scale, offset, canvas = _draw_layout(operation, canvas, goal, rng)
            forward = forward.then(scale, offset)
    forward = forward.then(goal / canvas, np.zeros_like(canvas))
    if forward.warp is None:
        return _cut(forward, sizes, goal)
    return _warp(_inverse(forward.warp), sizes, target)


@dataclass(frozen=True, slots=True)
class Forward:
    """The way from source to canvas: a scale and an offset on each axis, until something turns."""

    scale: NDArray[np.float64]  # (N, 2) along x, along y
    offset: NDArray[np.float64]  # (N, 2)
    warp: Matrices | None = None  # takes over from the first turn on

    def then(self, scale: NDArray[np.float64], offset: NDArray[np.float64]) -> Forward:
        """Follow with a scale and an offset on each axis."""
        if self.warp is not None:
            return replace(self, warp=_on_axes(scale, offset) @ self.warp)
        return Forward(scale * self.scale, scale * self.offset + offset)

    def then_warp(self, matrix: Matrices) -> Forward:
        """Follow with a matrix."""
        before = _on_axes(self.scale, self.offset) if self.warp is None else self.warp
        return replace(self, warp=matrix @ before)


def whole(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round half up, as the serving graph does too."""
    rounded: NDArray[np.float64] = np.floor(values + 0.5)
    return rounded


def _draw_layout(
    operation: RandomResizedCrop | Resize | CenterCrop | Flip,
    canvas: NDArray[np.float64],
    goal: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and offset from the canvas before to the one after, and the latter's size."""
    none = np.zeros_like(canvas)
    match operation:
        case RandomResizedCrop():
            corner, size = _draw_crop(operation, canvas, rng)
            return goal / size, -corner * (goal / size), goal
        case Resize(shorter=None):
            return goal / canvas, none, goal
        case Resize(shorter=shorter):
            after = whole(canvas * ((shorter or 0) / canvas.min(axis=1, keepdims=True)))
            return after / canvas, none, after
        case CenterCrop(size=side):
            after = goal if side is None else np.full_like(canvas, side)
            # An image smaller than the crop is enlarged until the crop fits.
            factor = np.maximum((after / canvas).max(axis=1, keepdims=True), 1.0)
            corner = whole((canvas * factor - after) / 2)
            return factor + none, -corner, after
        case Flip(horizontal=h, vertical=v):
            mirrored = rng.random(canvas.shape) < np.array([h, v])
            return np.where(mirrored, -1.0, 1.0), np.where(mirrored, canvas, 0.0), canvas


def _draw_warp(
    operation: Rotate | Affine, canvas: NDArray[np.float64], rng: np.random.Generator
) -> Matrices:
    n = len(canvas)
    if isinstance(operation, Rotate):
        linear, moved = _linear(rng.uniform(*operation.degrees, n)), np.zeros_like(canvas)
    else:
        degrees, shear = rng.uniform(*operation.degrees, n), rng.uniform(*operation.shear, n)
        linear = _linear(degrees, shear, rng.uniform(*operation.scale, n))
        moved = rng.uniform(-1, 1, (n, 2)) * np.array(operation.translate) * canvas
    return _shift(moved + canvas / 2) @ linear @ _shift(-canvas / 2)


def _draw_crop(
    crop: RandomResizedCrop, canvas: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw corners and sizes (N, 2) as torchvision does: ten tries, then the widest middle."""
    n = len(canvas)
    area = canvas.prod(axis=1) * rng.uniform(*crop.scale, (_CROP_TRIES, n))
    ratio = crop.ratio[0] * np.exp(
        rng.random((_CROP_TRIES, n)) * math.log(crop.ratio[1] / crop.ratio[0])
    )
    tries = np.maximum(np.round(np.sqrt(np.stack([area * ratio, area / ratio], axis=-1))), 1.0)
    fits = (tries <= canvas).all(axis=-1)  # (tries, N)
    size = tries[fits.argmax(axis=0), np.arange(n)]
    corner = np.floor(rng.random((n, 2)) * (canvas - size + 1))
    whole_ratio = np.clip(canvas[:, 0] / canvas[:, 1], *crop.ratio)
    width = np.minimum(canvas[:, 0], canvas[:, 1] * whole_ratio)
    central = np.maximum(np.round(np.stack([width, width / whole_ratio], axis=-1)), 1.0)
    none = ~fits.any(axis=0)[:, None]
    size = np.where(none, np.minimum(central, canvas), size)
    return np.where(none, np.floor((canvas - size) / 2), corner), size


def _cut(forward: Forward, sizes: NDArray[np.int64], goal: NDArray[np.float64]) -> Placement:
    """Read off the box and its mirroring where nothing turns."""
    low = -forward.offset / forward.scale
    high = (goal - forward.offset) / forward.scale
    limit = sizes[:, ::-1]
    first = np.clip(whole(np.minimum(low, high)), 0, limit - 1)
    last = np.clip(whole(np.maximum(low, high)), first + 1, limit)
    box = np.concatenate([first, last], axis=1).astype(np.int64)
    return Placement(box=box, flip=forward.scale < 0)


def _warp(backward: Matrices, sizes: NDArray[np.int64], target: tuple[int, int]) -> Placement:
    """Find the part of the source a warp needs, how far to shrink it, and what is left to do."""
    height, width = target
    corners = np.array(
        [[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], dtype=np.float64
    )
    mapped = (backward @ corners)[:, :2]  # (N, 2, 4)
    limit = sizes[:, ::-1]
    first = np.clip(np.floor(mapped.min(axis=2)) - _MARGIN, 0, limit - 1)
    last = np.clip(np.ceil(mapped.max(axis=2)) + _MARGIN, first + 1, limit)
    # Source pixels that a target pixel covers. Where they are many, a warp alone would skip some.
    reduction = np.sqrt(np.abs(np.linalg.det(backward[:, :2, :2])))
    reduction = np.where(reduction < _FILTER_FROM, 1.0, reduction)
    part = last - first
    inner = np.maximum(np.round(part / reduction[:, None]), 1.0)
    left = _on_axes(inner / part, -first * (inner / part)) @ backward
    return Placement(
        box=np.concatenate([first, last], axis=1).astype(np.int64),
        flip=np.zeros((len(sizes), 2), dtype=np.bool_),
        inner=inner[:, ::-1].astype(np.int64),
        matrix=left[:, :2].astype(np.float32),
    )


def _identity(n: int) -> Matrices:
    return np.broadcast_to(np.eye(3), (n, 3, 3)).copy()


def _inverse(matrices: Matrices) -> Matrices:
    """Invert affine matrices by hand: LAPACK's threads cost more than the work."""
    (a, b), (c, d) = np.moveaxis(matrices[:, :2, :2], 0, -1)
    linear = np.moveaxis(np.array([[d, -b], [-c, a]]) / (a * d - b * c), -1, 0)
    inverse = _identity(len(matrices))
    inverse[:, :2, :2] = linear
    inverse[:, :2, 2] = -(linear * matrices[:, None, :2, 2]).sum(axis=2)
    return inverse


def _shift(by: NDArray[np.float64]) -> Matrices:
    matrix = _identity(len(by))
    matrix[:, :2, 2] = by
    return matrix


def _on_axes(scale: NDArray[np.float64], offset: NDArray[np.float64]) -> Matrices:
    matrix = _shift(offset)
    matrix[:, [0, 1], [0, 1]] = scale
    return matrix


def _linear(
    degrees: NDArray[np.float64],
    shear: NDArray[np.float64] | float = 0.0,
    scale: NDArray[np.float64] | float = 1.0,
) -> Matrices:
    """Turn (counter-clockwise to the eye, with y pointing down), after shear along x and scale."""
    angle = np.radians(degrees)
    turn = _identity(len(degrees))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 0, 1] = np.sin(angle)
    turn[:, 1, 0] = -np.sin(angle)
    slant = _identity(len(degrees))
    slant[:, 0, 1] = np.tan(np.asarray(shear) * (math.pi / 180))
    turn = turn @ slant
    turn[:, :2, :2] *= np.asarray(scale).reshape(-1, 1, 1)
    return turn
