"""Efficiency: the floating-point operations that training needs, and those that the device can do.

Their quotient is the model FLOPs utilization (MFU; Chowdhery et al., PaLM, appendix B): what an
ideal implementation would need, over what the device could have done in the time it took.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.device import Device
from stages.train.models.classifier import Classifier
from stages.train.precision import DTYPES, Precision

_SIDE_CPU, _SIDE_CUDA = 1024, 8192
_TRIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """How well the arithmetic units were used."""

    flops_per_image: float
    """Forward and backward; matrix products and convolutions, which is nearly all."""
    peak_flops: float
    """A second, of one device: reached here by a large matrix product in the same precision."""
    images_per_s: float
    """Of one device."""

    @property
    def mfu(self) -> float:
        """Share of the peak that went into the model's arithmetic."""
        return self.flops_per_image * self.images_per_s / self.peak_flops

    def __str__(self) -> str:
        return (
            f"{self.mfu:.1%} of {self.peak_flops / 1e9:,.0f} GFLOP/s (a matrix product here); "
            f"{self.flops_per_image / 1e9:.3g} GFLOP an image"
        )


def flops_per_image(module: Classifier, image_shape: tuple[int, int, int]) -> float | None:
    """Count the operations of a forward and backward pass, without computing it.

    Args:
        module: left as it is; a copy without memory is counted.
        image_shape: (H, W, C).

    Returns:
        The count, or None if the network cannot be run without its numbers.
    """
    samples = 2  # batch norm needs two
    try:
        double = copy.deepcopy(module).to("meta").train()
        images = torch.empty((samples, *image_shape), dtype=torch.uint8, device="meta")
        with FlopCounterMode(display=False) as counter:
            double(images).float().sum().backward()
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
        return None  # it looks at values, or is spread over processes
    return float(counter.get_total_flops()) / samples or None


def measured_peak(precision: Precision, device: Device) -> float:
    """Return the FLOP/s of a large matrix product: the best of a few, with torch's threads."""
    side = _SIDE_CUDA if device.is_cuda else _SIDE_CPU
    place = str(device)
    factor = torch.full((side, side), 0.5, dtype=DTYPES[precision.name], device=place)
    product = factor @ factor
    best = float("inf")
    for _ in range(_TRIES):
        started = time.perf_counter()
        torch.matmul(factor, factor, out=product)
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best
