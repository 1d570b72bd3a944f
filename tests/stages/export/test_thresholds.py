from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.export.thresholds import Histogram, entropy, minmax, percentile


def histogram(values: np.ndarray, bins: int = 4096) -> Histogram:
    reach = max(float(np.abs(values).max()), 1e-6)
    counts, edges = np.histogram(values, bins=bins, range=(-reach, reach))
    return Histogram(counts=counts, edges=edges, low=float(values.min()), high=float(values.max()))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), shift=st.floats(-2, 2))
def test_every_range_is_ordered_and_inside_minmax(seed, scale, shift):
    values = scale * (np.random.default_rng(seed).standard_normal(2000) + shift)
    table = histogram(values)
    low, high = minmax(table)
    assert (low, high) == (values.min(), values.max())
    for found in (percentile(table, 99.9), entropy(table)):
        assert low <= found[0] <= found[1] <= high


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_percentile_keeps_at_least_its_share(seed):
    values = np.random.default_rng(seed).standard_t(3, 5000)
    low, high = percentile(histogram(values), 99.0)
    assert np.mean((values >= low) & (values <= high)) >= 0.99 - 1e-9


def test_percentile_100_is_minmax():
    table = histogram(np.random.default_rng(0).standard_normal(1000))
    assert percentile(table, 100.0) == pytest.approx(minmax(table))


def test_entropy_clips_a_lonely_outlier_and_minmax_does_not():
    random = np.random.default_rng(0)
    table = histogram(np.append(random.standard_normal(100_000), 60.0))
    assert minmax(table)[1] == 60.0
    assert 3.0 < entropy(table)[1] < 15.0


def test_entropy_leaves_a_uniform_tensor_whole():
    table = histogram(np.random.default_rng(0).uniform(0, 1, 200_000))
    low, high = entropy(table)
    assert low >= 0.0
    assert high > 0.95


def test_a_tensor_that_is_always_zero_has_a_range():
    table = histogram(np.zeros(100))
    assert minmax(table) == (0.0, 0.0)
    assert percentile(table, 99.9) == (0.0, 0.0)
    assert entropy(table) == (0.0, 0.0)
