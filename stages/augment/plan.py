"""Plan: a transform list made ready to run, the same for every backend.

All geometry becomes one resample, done first; the pixel operations follow in their order, on
images that already have the target's size. The random numbers of a batch are drawn here, once, in
numpy: so every backend makes the same picture from the same seed, and a loader's position is a
few integers.

Shapes: N samples, H height, W width of the target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.augment.geometry import Placement, place
from stages.augment.operations import (
    Affine,
    AutoAugment,
    ColorJitter,
    Cutmix,
    Decode,
    Erase,
    GaussianBlur,
    Geometry,
    Mixup,
    Operation,
    RandAugment,
    Rotate,
    TrivialAugment,
)

Pixel = ColorJitter | GaussianBlur | Erase | RandAugment | TrivialAugment | AutoAugment

NO_BLUR = 0.01
"""A sigma so small that blurring with it changes nothing; stands for "not this time"."""


_HEADROOM = 2.0
"""Pixels that a reduced decode keeps for one of the target. It takes half the time of a full decode
and its pixels differ by 1 to 2 of 255 on average; without headroom it would be 2 to 5."""
_REDUCTIONS = (8, 4, 2, 1)
"""What libjpeg divides a side by at no cost: it leaves out frequencies."""

_POLICY_STAGES = 2
"""AutoAugment's policies are chains of up to two operations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to do to each image, in the order in which backends do it."""

    decode: Decode
    geometry: tuple[Geometry, ...]
    pixel: tuple[Pixel, ...]
    mixing: tuple[Mixup | Cutmix, ...]
    height: int
    width: int
    channels: int

    @property
    def warped(self) -> bool:
        """Whether geometry goes beyond cutting, stretching and mirroring."""
        return any(isinstance(o, Rotate | Affine) for o in self.geometry)

    @property
    def fill_edge(self) -> bool:
        """Whether a warp repeats the image's border instead of going black."""
        return any(isinstance(o, Rotate | Affine) and o.fill == "edge" for o in self.geometry)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """The random numbers of one batch."""

    placement: Placement
    pixel: tuple[NDArray[np.float32], ...]
    """One array for each pixel operation, a row for each sample; `draw_pixel` names the columns."""
    seed: int
    """For what draws its own numbers: torchvision's automatic augmentations."""


def make_plan(operations: Sequence[Operation], *, height: int, width: int, channels: int) -> Plan:
    """Sort a transform list into what backends run."""
    decode = next((o for o in operations if isinstance(o, Decode)), Decode())
    return Plan(
        decode=decode,
        geometry=tuple(o for o in operations if isinstance(o, Geometry)),
        pixel=tuple(o for o in operations if isinstance(o, Pixel)),
        mixing=tuple(o for o in operations if isinstance(o, Mixup | Cutmix)),
        height=height,
        width=width,
        channels=channels,
    )


def reduction(plan: Plan, placement: Placement) -> int:
    """Return what the sides of one JPEG may be divided by in decoding it: 1, 2, 4 or 8."""
    if not plan.decode.scaled:
        return 1
    reach = placement.reach((plan.height, plan.width)) / _HEADROOM
    return next((scale for scale in _REDUCTIONS if scale <= reach), 1)


def draw(plan: Plan, sizes: NDArray[np.int64], key: Sequence[int]) -> Draws:
    """Draw what a batch needs: a pure function of the plan, the sizes (N, 2) and the key.

    Args:
        plan: what is going to run.
        sizes: height and width of each source image.
        key: names the batch, for instance (seed, epoch, rank, number).
    """
    rng = np.random.default_rng(list(key))
    # Geometry has a stream of its own: a pixel operation more in the spec leaves the crops alone.
    geometry_rng, pixel_rng, seed_rng = rng.spawn(3)
    placement = place(
        plan.geometry,
        sizes,
        target=(plan.height, plan.width),
        rng=geometry_rng,
    )
    pixel = tuple(draw_pixel(operation, plan, len(sizes), pixel_rng) for operation in plan.pixel)
    return Draws(placement=placement, pixel=pixel, seed=int(seed_rng.integers(2**31)))


def draw_pixel(
    operation: Pixel, plan: Plan, n: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw the numbers of one pixel operation for n samples.

    Columns: color_jitter brightness, contrast, saturation, hue; gaussian_blur sigma; erase x, y,
    width, height in pixels; the automatic ones choice, strength, sign from 0 to 1 for each stage.
    """
    match operation:
        case ColorJitter() as c:
            bounds = (c.brightness, c.contrast, c.saturation, c.hue)
            columns = [rng.uniform(low, high, n) for low, high in bounds]
        case GaussianBlur(sigma=(low, high), p=p):
            sigma = np.maximum(rng.uniform(low, high, n), NO_BLUR)
            columns = [np.where(rng.random(n) < p, sigma, NO_BLUR)]
        case Erase() as e:
            columns = list(_draw_rectangles(e, plan, n, rng))
        case RandAugment(n=stages):
            columns = [rng.random((n, 3 * stages))]
        case _:
            columns = [rng.random((n, 3 * _POLICY_STAGES))]
    return np.column_stack(columns).astype(np.float32)


def _draw_rectangles(
    erase: Erase, plan: Plan, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], ...]:
    area = rng.uniform(*erase.area, n) * plan.height * plan.width
    ratio = erase.ratio[0] * np.exp(rng.random(n) * math.log(erase.ratio[1] / erase.ratio[0]))
    width = np.clip(np.round(np.sqrt(area * ratio)), 1, plan.width)
    height = np.clip(np.round(np.sqrt(area / ratio)), 1, plan.height)
    x = np.floor(rng.random(n) * (plan.width - width + 1))
    y = np.floor(rng.random(n) * (plan.height - height + 1))
    happens = rng.random(n) < erase.p
    return x, y, np.where(happens, width, 0.0), np.where(happens, height, 0.0)
