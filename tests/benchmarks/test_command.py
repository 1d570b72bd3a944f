"""What all benchmarks share on the command line and at the end of their output."""

from __future__ import annotations

import json

import pytest

from benchmarks.command import DEFAULT_ROUNDS, conclude, make_parser, print_table, rounds_of
from benchmarks.machine import Watch
from benchmarks.measure import Measured, Turn


@pytest.mark.parametrize(
    ("arguments", "rounds"), [([], DEFAULT_ROUNDS), (["--quick"], 1), (["--rounds", "3"], 3),
                              (["--quick", "--rounds", "2"], 2)]
)  # fmt: skip
def test_quick_is_one_round_unless_told_otherwise(arguments, rounds):
    assert rounds_of(make_parser("x", "about x").parse_args(arguments)) == rounds


def test_no_rounds_at_all_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        make_parser("x", "about x").parse_args(["--rounds", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_the_last_line_is_json_that_says_which_targets_were_met(capsys):
    figures = {"a / b": 1.25, "c / b": 0.5}
    conclude("x", Watch(), figures, {"a / b": 1.2, "c / b": 0.9}, ["one note"])
    *lines, last = capsys.readouterr().out.splitlines()
    told = json.loads(last)
    assert told["met"] == {"a / b": True, "c / b": False}
    assert told["figures"]["a / b"] == 1.25
    assert {"load before", "load after", "cores busy with others"} <= told["figures"].keys()
    assert "one note" in lines
    assert any("MISSED" in line for line in lines)


def test_the_table_shows_both_clocks_for_every_side(capsys):
    turns = {"a": [Turn(10, wall_s=1, cpu_s=2)], "b": [Turn(10, wall_s=2, cpu_s=2)]}
    print_table("title", Measured(unit="img", turns=turns), "b")
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a ")]
    assert row.split() == ["a", "10.0", "5.0", "100.000", "200.000", "0%", "2.00", "1.00"]


def test_a_benchmark_has_its_own_number_of_rounds():
    parser = make_parser("x", "about x", rounds=12)
    assert rounds_of(parser.parse_args([])) == 12
    assert rounds_of(parser.parse_args(["--quick"])) == 1


def test_what_may_be_at_most_so_much_is_told_with_its_own_sign(capsys):
    conclude("x", Watch(), {"us": 70.0}, {}, at_most={"us": 80.0})
    *lines, last = capsys.readouterr().out.splitlines()
    assert "target: us <= 80: 70.000, met" in lines
    assert json.loads(last)["met"] == {"us": True}
