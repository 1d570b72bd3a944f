"""How long steps waited for the loader: buckets, quantiles, shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.train.position import Position
from stages.train.stall import BUCKETS, bucket_of, quantile_s

WAITS = st.lists(st.floats(0, 1000), min_size=1, max_size=50)


@given(WAITS, st.sampled_from([0.5, 0.99, 1.0]))
def test_at_least_that_share_of_the_steps_waited_no_longer(waits, share):
    waits = [min(wait, 30.0) for wait in waits]
    counts = [0] * BUCKETS
    for wait in waits:
        counts[bucket_of(wait)] += 1
    limit = quantile_s(counts, share)
    assert sum(wait <= limit for wait in waits) >= share * len(waits) - 1e-9


@given(WAITS)
def test_the_median_is_at_most_twice_too_large(waits):
    waits = sorted(min(wait, 30.0) for wait in waits)
    counts = [0] * BUCKETS
    for wait in waits:
        counts[bucket_of(wait)] += 1
    median = waits[-(-len(waits) // 2) - 1]
    assert quantile_s(counts, 0.5) <= max(2 * median, 1e-6) + 1e-6


def test_nothing_waited_for_is_nothing():
    assert quantile_s([0] * BUCKETS, 0.5) == 0


def test_a_step_is_stalled_when_it_waited_for_more_than_three_hundredths():
    position = Position()
    for wait_s in (0.0, 0.002, 0.0031, 0.05):
        position.add_time(wait_s, 0.1)
    assert position.stalled_share == 0.5
    assert position.input_stall == pytest.approx(0.0551 / 0.4)
    assert Position.from_state_dict(position.state_dict()) == position
