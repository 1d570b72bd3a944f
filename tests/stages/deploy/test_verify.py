"""Comparing answers: what counts as equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages.deploy.canary import Canary, tolerance_for
from stages.deploy.gates import gates_of
from stages.deploy.load import LoadResult
from stages.deploy.samples import spread
from stages.deploy.verify import Check, softmax

logits = hnp.arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32))
ROWS = np.arange(4)


def check(served: np.ndarray, offline: np.ndarray, tolerance: float = 0.01) -> Check:
    result = Check(model="m", protocol="http", batch=1, tolerance=tolerance)
    result.compare(ROWS, np.zeros(4, np.int64), served, offline, served.argmax(axis=1))
    return result


@given(logits)
def test_the_same_figures_are_equal_bit_by_bit(figures: np.ndarray) -> None:
    result = check(figures, figures)
    assert result.equal
    assert result.bit_equal == 4
    assert result.top1 == result.offline_top1


@given(logits, st.integers(0, 3), st.floats(1, 50))
def test_one_figure_that_is_far_off_is_found(figures: np.ndarray, row: int, by: float) -> None:
    served = figures.copy()
    served[row, 1] += np.float32(by)
    assert not check(served, figures).equal


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_figure_that_is_no_number_is_found(value: float) -> None:
    offline = np.ones((4, 3), np.float32)
    served = offline.copy()
    served[2, 0] = value
    assert not check(served, offline).equal


def test_nan_stays_found_whatever_follows() -> None:
    offline = np.ones((4, 3), np.float32)
    result = check(np.full_like(offline, np.nan), offline)
    result.compare(ROWS, np.zeros(4, np.int64), offline, offline, offline.argmax(axis=1))
    assert not result.equal


def test_a_tie_within_the_tolerance_is_no_other_answer() -> None:
    offline = np.array([[1.0, 1.001, 0.0]] * 4, np.float32)
    served = np.array([[1.001, 1.0, 0.0]] * 4, np.float32)
    result = check(served, offline)
    assert result.equal
    assert result.bit_equal == 0


def test_another_class_is_counted_and_a_few_rows_are_named() -> None:
    offline = np.eye(4, 3, dtype=np.float32) * 9
    result = check(np.roll(offline, 1, axis=1), offline)
    assert result.differing == 3  # the last row is all zeros: a tie
    assert result.first_differing == [0, 1, 2]


@given(logits)
def test_shares_sum_to_one_and_keep_the_order(figures: np.ndarray) -> None:
    shares = softmax(figures)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    best = figures.argmax(axis=1)
    assert (shares[ROWS, best] == shares.max(axis=1)).all()


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_samples_are_spread_from_the_first_to_the_last(total: int, wanted: int) -> None:
    rows = spread(total, wanted)
    assert len(rows) == len(set(rows.tolist())) == min(total, wanted)
    assert rows[0] == 0
    assert rows.max() < total
    if wanted > 1:
        assert rows[-1] == total - 1


@given(logits)
def test_a_canary_accepts_its_own_answer_and_no_other_shape(figures: np.ndarray) -> None:
    canary = Canary(
        images=np.zeros((4, 1, 1, 1), np.uint8),
        logits=figures,
        tolerance=tolerance_for("fp32", figures),
    )
    assert canary.fault(figures) is None
    assert "shape" in str(canary.fault(figures[:0]))
    assert "off by" in str(canary.fault(figures + 1 + 2 * canary.tolerance))


def load(*latencies_ms: float, errors: int = 0) -> LoadResult:
    return LoadResult(
        concurrency=1, seconds=2.0, errors=errors, latencies_ms=np.array(sorted(latencies_ms))
    )


def test_a_gate_that_fails_says_what_to_do() -> None:
    offline = np.eye(4, 3, dtype=np.float32) * 9
    wrong = check(np.roll(offline, 1, axis=1), offline)
    gates = {g.name: g for g in gates_of([wrong], [load(1.0, 30.0, errors=2)], 20.0, ["x: bad"])}
    assert not any(gate.passed for gate in gates.values())
    assert "rows [0, 1, 2]" in gates["served equals offline"].message
    assert "2 were not" in gates["no errors under load"].message
    assert "or raise slo.p99_ms" in gates["slo p99"].message
    assert "x: bad" in gates["manifests valid"].message


def test_nothing_answered_is_no_pass() -> None:
    gates = {gate.name: gate for gate in gates_of([], [load()], 20.0, None)}
    assert not gates["no errors under load"].passed
    assert not gates["slo p99"].passed


def test_throughput_is_answers_a_second() -> None:
    assert load(1.0, 2.0, 3.0, errors=5).throughput == 1.5
