"""Thresholds: from the histogram of a tensor to the range that INT8 covers.

Values outside a range are clipped, values inside are rounded: a narrow range rounds finely and
clips much.

    minmax       clips nothing
    percentile   keeps the given share of values
    entropy      loses the least information (Migacz, "8-bit inference with TensorRT", 2017)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Edges = NDArray[np.float64]

_LEVELS = 128
"""Magnitudes that INT8 tells apart on one side of zero."""

_CANDIDATES = 120
"""Thresholds tried by `entropy`; they stand 1 to 2 % apart, which no network notices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How often a tensor took which value; bins are of equal width, symmetric around zero."""

    counts: Counts
    edges: Edges
    low: float
    high: float


def minmax(histogram: Histogram) -> tuple[float, float]:
    """Return the range that clips nothing."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percent: float) -> tuple[float, float]:
    """Return the range that leaves out equal shares on both sides, ``100 - percent`` together."""
    cumulated = np.cumsum(histogram.counts) / max(1, int(histogram.counts.sum()))
    beyond = (100.0 - percent) / 200.0
    left = int(np.searchsorted(cumulated, beyond, side="right"))
    right = int(np.searchsorted(cumulated, 1.0 - beyond, side="left"))
    last = len(histogram.counts) - 1
    low = float(histogram.edges[min(left, last)])
    high = float(histogram.edges[min(right, last) + 1])
    return max(low, histogram.low), min(high, histogram.high)


def entropy(histogram: Histogram) -> tuple[float, float]:
    """Return the range whose 128 levels tell the most about the distribution.

    ONNX Runtime's own search has as many bins as levels by default, and so nothing to search.
    """
    half = len(histogram.counts) // 2
    magnitudes = histogram.counts[half:] + histogram.counts[half - 1 :: -1]
    magnitudes = np.trim_zeros(magnitudes, "b").astype(np.float64)
    if len(magnitudes) <= _LEVELS:
        return minmax(histogram)
    # TensorRT leaves out the bin at zero too: after a ReLU it holds half of all values.
    magnitudes[0] = magnitudes[1]
    widths = np.unique(np.linspace(_LEVELS, len(magnitudes), _CANDIDATES).astype(int))
    losses = [_loss(magnitudes, int(width)) for width in widths]
    threshold = float(histogram.edges[half + int(widths[np.argmin(losses)])])
    return max(-threshold, histogram.low), min(threshold, histogram.high)


def _loss(magnitudes: NDArray[np.float64], width: int) -> float:
    """Return the information lost when `width` bins become 128 levels and the rest is clipped."""
    kept = magnitudes[:width]
    clipped = kept.copy()
    clipped[-1] += magnitudes[width:].sum()
    # Which level each bin falls into; the levels differ by one bin in width at most.
    starts = (np.arange(_LEVELS) * width) // _LEVELS
    filled = kept > 0
    share = np.add.reduceat(kept, starts) / np.maximum(1, np.add.reduceat(filled, starts))
    levels = np.where(filled, np.repeat(share, np.diff(starts, append=width)), 0.0)
    p, q = _smooth(clipped), _smooth(levels)
    return float(np.sum(p * np.log(p / q)))


def _smooth(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a distribution without zeros, so that its logarithm exists."""
    spread = counts + 1e-4 * max(1.0, counts.sum() / len(counts))
    smooth: NDArray[np.float64] = spread / spread.sum()
    return smooth
