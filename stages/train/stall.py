"""Stall: how long steps waited for the loader, as counts in buckets that double.

bucket 0: under 1 us, bucket 1: 1 us, bucket 2: 2 to 3 us, bucket 3: 4 to 7 us, ...
"""

from __future__ import annotations

from collections.abc import Sequence

BUCKETS = 27
"""The last one holds everything from half a minute on."""
TOLERABLE = 0.03
"""Share of a step that may be spent waiting before the step counts as stalled."""


def bucket_of(wait_s: float) -> int:
    """Return the bucket of one wait."""
    return min(int(wait_s * 1e6).bit_length(), BUCKETS - 1)


def quantile_s(counts: Sequence[int], share: float) -> float:
    """Return what that share of the steps waited at most: the upper end of a bucket; 0 if none.

    Args:
        counts: steps by bucket.
        share: 0.5 for the median, 0.99 for all but one in a hundred.
    """
    wanted, seen = share * sum(counts), 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= wanted and seen:
            return float(2**bucket) / 1e6
    return 0.0
