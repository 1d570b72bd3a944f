"""Command: what every benchmark's command line understands, and what it prints at the end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

from benchmarks.machine import Watch, load
from benchmarks.measure import Measured, judge

DEFAULT_ROUNDS = 5


def make_parser(
    name: str, description: str | None, *, rounds: int = DEFAULT_ROUNDS
) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share.

    Args:
        name: of the benchmark's module.
        description: shown by ``--help``.
        rounds: turns of each side unless told otherwise.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run?")
    parser.add_argument(
        "--rounds", type=_positive, help=f"turns of each side; {rounds} if left out"
    )
    parser.set_defaults(default_rounds=rounds)
    return parser


def rounds_of(options: argparse.Namespace) -> int:
    """Return how many turns each side takes."""
    return options.rounds or (1 if options.quick else options.default_rounds)


def print_table(title: str, measured: Measured, reference: str) -> None:
    """Print every side's speed by wall and by CPU time, and how it compares to the reference."""
    unit = measured.unit
    width = max(len(name) for name in measured.turns)
    print(f"\n{title}")
    print(
        f"{'side':{width}}  {unit + '/s':>10}  {unit + '/cpu-s':>12}  {'ms wall':>9}  {'ms cpu':>9}"
        f"  {'spread':>6}  {'wall':>6}  {'cpu':>6}"
    )
    for name in measured.turns:
        wall, cpu = measured.rate(name), measured.rate(name, "cpu")
        print(
            f"{name:{width}}  {wall:10,.1f}  {cpu:12,.1f}  {1e3 / wall:9.3f}  {1e3 / cpu:9.3f}"
            f"  {measured.spread(name):6.0%}  {measured.ratio(name, reference):6.2f}"
            f"  {measured.ratio(name, reference, 'cpu'):6.2f}"
        )
    print(f"(the last two columns: times as fast as {reference!r}, by wall and by CPU time)")


def rates(prefix: str, measured: Measured) -> dict[str, float]:
    """Return the speed of every side as figures: ``prefix: side, img/s`` and ``img/cpu-s``."""
    figures: dict[str, float] = {}
    for name in measured.turns:
        figures[f"{prefix}: {name}, {measured.unit}/s"] = measured.rate(name)
        figures[f"{prefix}: {name}, {measured.unit}/cpu-s"] = measured.rate(name, "cpu")
    return figures


def conclude(
    name: str,
    watch: Watch,
    figures: Mapping[str, float],
    targets: Mapping[str, float],
    notes: Sequence[str] = (),
    *,
    at_most: Mapping[str, float] | None = None,
) -> None:
    """Print machine, load and verdict; the last line is everything as one line of JSON.

    Args:
        name: of the benchmark.
        watch: what it ran on.
        figures: what was measured.
        targets: the least that a figure has to be.
        notes: lines about how it was measured.
        at_most: the most that a figure may be.
    """
    at_most = at_most or {}
    print()
    for line in [*notes, *watch.lines()]:
        print(line)
    met = judge(figures, targets, at_most)
    limits = {**targets, **at_most}
    for target, limit in limits.items():
        sign, verdict = "<=" if target in at_most else ">=", "met" if met[target] else "MISSED"
        print(f"target: {target} {sign} {limit:g}: {figures[target]:.3f}, {verdict}")
    load_figures = {
        "load before": watch.load_before,
        "load after": load(),
        "cores busy with others": watch.others(),
    }
    rounded = {key: float(f"{value:.5g}") for key, value in {**figures, **load_figures}.items()}
    print(json.dumps({"benchmark": name, "figures": rounded, "targets": limits, "met": met}))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} rounds measure nothing; at least 1")
    return number
