"""Turns, their order, what is made of them, and when a target is met."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import Measured, Side, Turn, judge, order_of, take_turns, timed

RATES = st.floats(0.01, 1e6)


def measured(**rates: list[float]) -> Measured:
    turns = {
        name: [Turn(units=rate, wall_s=1.0, cpu_s=2.0) for rate in listed]
        for name, listed in rates.items()
    }
    return Measured(unit="img", turns=turns)


def run(names: list[str], rounds: int) -> list[str]:
    """Return who took a turn, in order, and where a wait came before it."""
    happened: list[str] = []

    def side(name: str) -> Side:
        def turn() -> Turn:
            happened.append(name)
            return Turn(1.0, 1.0, 1.0)

        return Side(name, turn)

    take_turns(
        [side(name) for name in names], rounds=rounds, unit="img",
        wait=lambda: happened.append("wait"),
    )  # fmt: skip
    return happened


@given(st.integers(1, 6), st.integers(1, 12))
def test_every_side_takes_its_turn_in_every_round(sides, rounds):
    names = [f"side {number}" for number in range(sides)]
    turns = [each for each in run(names, rounds) if each != "wait"]
    for start in range(0, len(turns), sides):
        assert sorted(turns[start : start + sides]) == names


@given(st.integers(1, 6))
def test_each_side_is_first_equally_often(sides):
    names = [f"side {number}" for number in range(sides)]
    assert sorted(order_of(names, number)[0] for number in range(sides)) == names


def test_the_order_turns_by_one_each_round():
    assert [order_of(["a", "b", "c"], number) for number in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"],
    ]  # fmt: skip


def test_one_round_shows_that_sides_run_and_waits_for_nothing():
    assert run(["a", "b"], rounds=1) == ["a", "b", "a", "b"]


def test_two_sides_alternate_and_there_is_rest_before_each_turn():
    assert run(["a", "b"], rounds=2) == [
        "wait", "a", "wait", "b",  # warm-up
        "wait", "a", "wait", "b",
        "wait", "b", "wait", "a",
    ]  # fmt: skip


def test_the_warm_up_is_not_counted():
    rates = iter([1.0, 10.0, 30.0])
    side = Side("a", lambda: Turn(next(rates), 1.0, 1.0))
    found = take_turns([side], rounds=2, unit="img", wait=lambda: None)
    assert [turn.units for turn in found.turns["a"]] == [10.0, 30.0]


def test_two_sides_of_one_name_are_refused():
    side = Side("a", lambda: Turn(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="share a name"):
        take_turns([side, side], rounds=1, unit="img", wait=lambda: None)


@given(st.lists(RATES, min_size=1, max_size=9))
def test_the_rate_is_the_median_by_either_clock(rates):
    found = measured(a=rates)
    assert found.rate("a") == statistics.median(rates)
    assert found.rate("a", "cpu") == pytest.approx(statistics.median(rates) / 2)


@given(st.lists(RATES, min_size=1, max_size=9))
def test_a_side_is_exactly_as_fast_as_itself(rates):
    assert measured(a=rates).ratio("a", "a") == 1.0


@given(st.lists(st.tuples(RATES, RATES), min_size=1, max_size=9))
def test_the_ratio_pairs_the_turns_of_one_round(pairs):
    ours, theirs = (list(part) for part in zip(*pairs, strict=True))
    expected = statistics.median(one / two for one, two in pairs)
    assert measured(a=ours, b=theirs).ratio("a", "b") == pytest.approx(expected)


def test_a_machine_that_slows_down_for_all_leaves_the_ratio_alone():
    assert measured(a=[20.0, 10.0, 2.0], b=[10.0, 5.0, 1.0]).ratio("a", "b") == 2.0


def test_the_spread_is_a_share_of_the_median():
    assert measured(a=[8.0, 10.0, 13.0]).spread("a") == 0.5


def test_timed_work_knows_its_units_and_that_time_went_by():
    turn = timed(lambda: sum(1 for _ in range(1000)))()
    assert turn.units == 1000
    assert turn.wall_s > 0


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 10), max_size=5), st.floats(0, 10))
def test_a_target_is_met_from_its_value_on(figures, least):
    assert judge(figures, dict.fromkeys(figures, least)) == {
        name: value >= least for name, value in figures.items()
    }


def test_what_was_not_measured_meets_nothing():
    assert judge({"a": math.nan}, {"a": 0.0}) == {"a": False}
    with pytest.raises(KeyError, match="b"):
        judge({"a": 1.0}, {"b": 1.0})


def test_some_figures_have_to_stay_below_their_target():
    figures = {"speed": 2.0, "overhead": 90.0, "unknown": math.nan}
    assert judge(figures, {"speed": 1.0}, {"overhead": 80.0, "unknown": 1.0}) == {
        "speed": True, "overhead": False, "unknown": False,
    }  # fmt: skip
