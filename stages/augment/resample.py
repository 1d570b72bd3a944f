"""Resample: carry out a `Placement` in torch.

Shapes: N samples, H height, W width, C channels; images are uint8 (N, H, W, C) in and out.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from stages.augment.geometry import Placement
from stages.augment.pixels import to_uint8
from stages.augment.plan import Plan


def resample(source: torch.Tensor, placement: Placement, plan: Plan) -> torch.Tensor:
    """Lay each source (N, H, W, C) onto the target in one resample."""
    target = (plan.height, plan.width)
    if placement.matrix is not None and placement.inner is not None:
        reduced = bool((placement.inner != _box_sizes(placement)).any())
        if not reduced:
            return _sample(source, placement.box, placement.matrix, target, edge=plan.fill_edge)
        return torch.cat(
            [_shrink_and_warp(source[i : i + 1], placement, i, plan) for i in range(len(source))]
        )
    boxes = placement.box
    if (boxes == boxes[0]).all():
        x0, y0, x1, y1 = boxes[0]
        images = stretch(source[:, y0:y1, x0:x1], target)
    else:
        images = _stretch_each(source, boxes, target)
    return mirror(images, placement.flip)


def stretch(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize (N, H, W, C) bilinearly, with a filter against aliasing where it shrinks."""
    if tuple(images.shape[1:3]) == size:
        return images
    planes = images.permute(0, 3, 1, 2)
    if planes.is_cuda:
        planes = planes.float()
    resized = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=True)
    if resized.dtype != torch.uint8:
        resized = to_uint8(resized)
    return resized.permute(0, 2, 3, 1)


def mirror(images: torch.Tensor, flip: NDArray[np.bool_]) -> torch.Tensor:
    """Mirror the samples marked along x and along y."""
    # `where` over three interleaved bytes costs ten times what the flip does.
    for axis, marked in ((2, flip[:, 0]), (1, flip[:, 1])):
        if marked.all():
            images = images.flip(axis)
        elif marked.any():
            rows = torch.from_numpy(marked.nonzero()[0]).to(images.device)
            images = images.index_copy(0, rows, images[rows].flip(axis))
    return images.contiguous()


def _box_sizes(placement: Placement) -> NDArray[np.int64]:
    box = placement.box
    return np.stack([box[:, 3] - box[:, 1], box[:, 2] - box[:, 0]], axis=1)


def _stretch_each(
    source: torch.Tensor, boxes: NDArray[np.int64], target: tuple[int, int]
) -> torch.Tensor:
    sizes = boxes[:, 2:] - boxes[:, :2]
    if (sizes <= np.array(target[::-1])).all():
        scale = (sizes / np.array(target[::-1])).astype(np.float32)
        matrix = np.zeros((len(boxes), 2, 3), dtype=np.float32)
        matrix[:, [0, 1], [0, 1]] = scale
        return _sample(source, boxes, matrix, target, edge=True)
    parts = [
        stretch(source[i : i + 1, y0:y1, x0:x1], target) for i, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    return torch.cat(parts)


def _shrink_and_warp(
    source: torch.Tensor, placement: Placement, i: int, plan: Plan
) -> torch.Tensor:
    assert placement.inner is not None
    assert placement.matrix is not None
    x0, y0, x1, y1 = placement.box[i]
    height, width = (int(side) for side in placement.inner[i])
    inner = stretch(source[:, y0:y1, x0:x1], (height, width))
    box = np.array([[0, 0, width, height]])
    target = (plan.height, plan.width)
    return _sample(inner, box, placement.matrix[i : i + 1], target, edge=plan.fill_edge)


def _sample(
    source: torch.Tensor,
    boxes: NDArray[np.int64],
    matrix: NDArray[np.float32],
    target: tuple[int, int],
    *,
    edge: bool,
) -> torch.Tensor:
    """Sample boxes of the source bilinearly at the places that the matrices (N, 2, 3) name."""
    height, width = target
    # grid_sample counts from -1 to 1 over the whole source, here from the corner of the box.
    unit = 2.0 / np.array([source.shape[2], source.shape[1]])
    scaled = matrix.astype(np.float64) * unit[:, None]
    scaled[:, :, 2] += boxes[:, :2] * unit - 1.0
    across, down, start = _columns(scaled, source.device)
    x = torch.arange(width, device=source.device).view(1, 1, -1, 1) + 0.5
    y = torch.arange(height, device=source.device).view(1, -1, 1, 1) + 0.5
    grid = (x * across + start) + y * down  # (N, H, W, 2)
    if edge:
        half = 0.5 * unit
        limits = np.stack([boxes[:, :2] * unit - 1 + half, boxes[:, 2:] * unit - 1 - half], axis=-1)
        low, high = _columns(limits, source.device)
        grid = torch.minimum(torch.maximum(grid, low), high)
    planes = source.permute(0, 3, 1, 2).float()
    sampled = F.grid_sample(planes, grid, mode="bilinear", align_corners=False)
    return to_uint8(sampled).permute(0, 2, 3, 1).contiguous()


def _columns(values: NDArray[np.float64], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Split (N, 2, K) into K tensors (N, 1, 1, 2)."""
    columns = torch.from_numpy(values.astype(np.float32)).to(device)
    return columns[:, None, None].unbind(dim=-1)
