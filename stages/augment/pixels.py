"""Pixel operations on batches, in torch: colour, blur, erasing and the automatic augmentations.

Shapes: N samples, H height, W width, C channels; images are uint8 (N, H, W, C) in and out.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from stages.augment.operations import AutoAugment, ColorJitter, Erase, GaussianBlur, RandAugment
from stages.augment.plan import NO_BLUR, Draws, Plan

_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_MID_GRAY = 128.0


def apply_pixel_operations(images: torch.Tensor, plan: Plan, draws: Draws) -> torch.Tensor:
    """Apply the plan's pixel operations in their order."""
    for number, (operation, drawn) in enumerate(zip(plan.pixel, draws.pixel, strict=True)):
        match operation:
            case ColorJitter():
                images = jitter_color(images, drawn)
            case GaussianBlur():
                images = blur(images, drawn[:, 0])
            case Erase():
                images = erase(images, drawn)
            case _:
                images = augment_automatically(images, operation, seed=draws.seed + number)
    return images


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Round and clip to the range of a pixel."""
    return images.round_().clamp_(0, 255).to(torch.uint8)


def jitter_color(images: torch.Tensor, drawn: NDArray[np.float32]) -> torch.Tensor:
    """Apply brightness, contrast, saturation and hue (N, 4) as one affine map of the colours.

    Hue and saturation turn and scale the colour plane of YIQ, as DALI's ``color_twist`` does.
    """
    brightness, contrast, saturation, hue = drawn.T.astype(np.float64)
    channels = images.shape[-1]
    if channels == 3:
        turn = np.zeros((len(images), 3, 3))
        turn[:, 0, 0] = 1.0
        turn[:, 1, 1] = turn[:, 2, 2] = saturation * np.cos(np.radians(hue))
        turn[:, 1, 2] = saturation * np.sin(np.radians(hue))
        turn[:, 2, 1] = -saturation * np.sin(np.radians(hue))
        matrix = _YIQ_TO_RGB @ turn @ _RGB_TO_YIQ
    else:
        matrix = np.ones((len(images), 1, 1))
    matrix = matrix * (brightness * contrast)[:, None, None]
    offset = (_MID_GRAY - _MID_GRAY * contrast) * brightness
    linear = torch.from_numpy(matrix.astype(np.float32)).to(images.device)
    shift = torch.from_numpy(offset.astype(np.float32)).to(images.device)
    flat = images.flatten(1, 2).float()  # (N, H * W, C)
    return to_uint8(torch.baddbmm(shift[:, None, None], flat, linear.mT)).view_as(images)


def blur(images: torch.Tensor, sigmas: NDArray[np.float32]) -> torch.Tensor:
    """Blur each image with its own sigma; borders are mirrored without repeating the edge."""
    result = images.clone()
    for i, sigma in enumerate(sigmas):
        if sigma <= NO_BLUR:
            continue
        radius = math.ceil(3 * float(sigma))
        offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / float(sigma)) ** 2)
        kernel = kernel / kernel.sum()
        image = images[i].permute(2, 0, 1).unsqueeze(1).float()  # (C, 1, H, W)
        for axis in (2, 3):
            image = F.conv2d(_mirror(image, radius, axis), kernel.view(_along(axis)))
        result[i] = to_uint8(image).squeeze(1).permute(1, 2, 0)
    return result


def _along(axis: int) -> tuple[int, int, int, int]:
    return (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)


def _mirror(image: torch.Tensor, radius: int, axis: int) -> torch.Tensor:
    """Extend one axis on both sides by reflection, even by more than the image is long."""
    size = image.shape[axis]
    period = max(2 * (size - 1), 1)
    place = torch.arange(-radius, size + radius, device=image.device).remainder(period)
    return image.index_select(axis, torch.minimum(place, period - place).clamp(0, size - 1))


def erase(images: torch.Tensor, drawn: NDArray[np.float32]) -> torch.Tensor:
    """Black out one rectangle (x, y, width, height) in each image."""
    x, y, width, height = (
        torch.from_numpy(column.copy()).to(images.device)[:, None] for column in drawn.T
    )
    rows = torch.arange(images.shape[1], device=images.device)
    columns = torch.arange(images.shape[2], device=images.device)
    in_rows = (rows >= y) & (rows < y + height)  # (N, H)
    in_columns = (columns >= x) & (columns < x + width)  # (N, W)
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    return images.masked_fill(inside[..., None], 0)


def augment_automatically(images: torch.Tensor, operation: object, *, seed: int) -> torch.Tensor:
    """Run torchvision's RandAugment, TrivialAugment or AutoAugment on each image."""
    from torchvision.transforms import v2

    if isinstance(operation, RandAugment):
        transform = v2.RandAugment(num_ops=operation.n, magnitude=operation.m)
    elif isinstance(operation, AutoAugment):
        transform = v2.AutoAugment()
    else:
        transform = v2.TrivialAugmentWide()
    planes = images.permute(0, 3, 1, 2)
    # torchvision draws from torch's global generator: seed it for this batch and put it back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = torch.stack([transform(image) for image in planes])
    return changed.permute(0, 2, 3, 1).contiguous()
