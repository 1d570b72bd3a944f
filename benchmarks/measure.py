"""Measure: sides take turns (A B C, B C A, ...), and are compared turn by turn.

sides = [Side("ours", ours), Side("theirs", theirs)]
measured = take_turns(sides, rounds=5)
measured.ratio("ours", "theirs")       # median over the rounds of ours / theirs, 1.0 is a tie
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmarks.clock import Stopwatch, settle

Clock = Literal["wall", "cpu"]
WARM_UP_ROUNDS = 1
"""Rounds that are run first and not counted: they fill caches and start threads."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did in one turn, and how long it took."""

    units: float
    """Images, steps or requests."""
    wall_s: float
    cpu_s: float

    def rate(self, clock: Clock) -> float:
        """Return units a second of wall or of CPU time."""
        seconds = self.wall_s if clock == "wall" else self.cpu_s
        return self.units / seconds if seconds else float("inf")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things that are compared."""

    name: str
    turn: Callable[[], Turn]
    """Does a fixed piece of work, or works for a fixed time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The turns of every side, in the order of the rounds."""

    unit: str
    turns: Mapping[str, Sequence[Turn]]

    def rate(self, side: str, clock: Clock = "wall") -> float:
        """Return the median over the rounds of units a second."""
        return median(turn.rate(clock) for turn in self.turns[side])

    def spread(self, side: str, clock: Clock = "wall") -> float:
        """Return the distance from the slowest to the fastest round, as a share of the median."""
        rates = [turn.rate(clock) for turn in self.turns[side]]
        return (max(rates) - min(rates)) / median(rates)

    def ratio(self, side: str, other: str, clock: Clock = "wall") -> float:
        """Return how many times faster `side` is than `other`.

        It is the median of the ratios within each round: both sides of a round ran within seconds
        of each other, so what else the machine did weighed on both.
        """
        pairs = zip(self.turns[side], self.turns[other], strict=True)
        return median(one.rate(clock) / two.rate(clock) for one, two in pairs)


def timed(work: Callable[[], float]) -> Callable[[], Turn]:
    """Turn work that returns how many units it did into a side's turn."""

    def turn() -> Turn:
        watch = Stopwatch()
        units = work()
        return Turn(units=units, wall_s=watch.wall_s, cpu_s=watch.cpu_s)

    return turn


def order_of(names: Sequence[str], round_number: int) -> list[str]:
    """Return the order of a round: each side is the first to go as often as any other."""
    first = round_number % len(names)
    return [*names[first:], *names[:first]]


def take_turns(
    sides: Sequence[Side],
    *,
    rounds: int,
    unit: str,
    wait: Callable[[], None] = settle,
) -> Measured:
    """Let the sides take turns, after a warm-up that is not counted.

    Args:
        sides: what is compared; names must differ.
        rounds: how often each takes its turn.
        unit: what a turn counts.
        wait: called before each turn, so that one side's leftovers do not weigh on the next; not
            where there is but one round, which shows no more than that all sides run.

    Raises:
        ValueError: two sides have one name.
    """
    by_name = {side.name: side for side in sides}
    if len(by_name) < len(sides):
        raise ValueError(f"sides share a name: {[side.name for side in sides]}")
    turns: dict[str, list[Turn]] = {name: [] for name in by_name}
    for number in range(-WARM_UP_ROUNDS, rounds):
        for name in order_of(list(by_name), max(number, 0)):
            if rounds > 1:
                wait()
            turn = by_name[name].turn()
            if number >= 0:
                turns[name].append(turn)
    return Measured(unit=unit, turns=turns)


def judge(
    figures: Mapping[str, float],
    at_least: Mapping[str, float],
    at_most: Mapping[str, float] | None = None,
) -> dict[str, bool]:
    """Tell for each target whether the figure of that name reaches it; NaN reaches nothing.

    Raises:
        KeyError: a target has no figure.
    """
    reached = {name: figures[name] >= least for name, least in at_least.items()}
    return reached | {name: figures[name] <= most for name, most in (at_most or {}).items()}
