"""Scale: from numbers to places on paper, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.report.figures import figure, grouped

LARGEST = 1e150
"""Beyond it differences overflow; such a value says "broken" and not a place."""

SMALLEST = 1e-150
"""Below it steps between ticks vanish; such a value is 0."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of numbers laid along a line of pixels."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def labels(self) -> tuple[str, ...]:
        """The ticks as text, all with the same number of decimals."""
        if self.log:
            return tuple(figure(tick, 2) for tick in self.ticks)
        return tick_labels(self.ticks)


def drawable(value: float) -> bool:
    """Tell whether a number has a place on paper."""
    return math.isfinite(value) and abs(value) < LARGEST


def has_logarithm(value: float) -> bool:
    """Tell whether a number has a place on a logarithmic scale."""
    return drawable(value) and value >= SMALLEST


def linear(values: Iterable[float], *, tight: bool = False, count: int = 5) -> Scale:
    """Return a scale over the values; unless `tight`, it reaches to the next round numbers."""
    known = [v if abs(v) >= SMALLEST else 0.0 for v in values if drawable(v)]
    low, high = _bounds(known)
    ticks = round_ticks(low, high, count, whole=all(v == round(v) for v in known))
    if tight:
        step = ticks[1] - ticks[0]
        inside = tuple(t for t in ticks if low - step * 1e-9 <= t <= high + step * 1e-9)
        return Scale(low, high, 0, 1, inside)
    return Scale(ticks[0], ticks[-1], 0, 1, ticks)


def logarithmic(values: Iterable[float]) -> Scale:
    """Return a logarithmic scale over the positive values."""
    positive = [v for v in values if has_logarithm(v)]
    low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    marks = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    start = max(m for m in marks if m <= low * (1 + 1e-9))
    stop = min(m for m in marks if m >= high * (1 - 1e-9) and m > start)
    inside = [m for m in marks if start <= m <= stop]
    if len(inside) > 7:
        tens = [10.0**d for d in decades if start <= 10.0**d <= stop]
        inside = tens[:: -(-len(tens) // 6)]
    return Scale(start, stop, 0, 1, tuple(inside), log=True)


def round_ticks(
    low: float, high: float, count: int = 5, *, whole: bool = False
) -> tuple[float, ...]:
    """Return about `count` round numbers that enclose the range, `whole` ones if asked to."""
    step = _round_step((high - low) / max(1, count - 1))
    if whole and step != round(step):
        step = math.ceil(step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    decimals = max(0, -math.floor(math.log10(step)))
    return tuple(round(index * step, decimals + 1) for index in range(first, last + 1))


def tick_labels(ticks: tuple[float, ...]) -> tuple[str, ...]:
    """Return ticks as text with the decimals that tell neighbours apart."""
    size = max((abs(tick) for tick in ticks), default=0.0)
    if size >= 1e15 or (size and size < 1e-3):
        return tuple(figure(tick, 6) for tick in ticks)
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= 10 * factor:
            return tuple(figure(t / factor, 6) + (suffix if t else "") for t in ticks)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else size or 1.0
    decimals = next((d for d in range(9) if abs(round(step, d) - step) < step * 1e-6), 9)
    return tuple(grouped(tick, decimals) for tick in ticks)


def _bounds(values: list[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= max(abs(low), abs(high)) * 1e-9:
        margin = abs(high) * 0.1 or 1.0
        return low - margin, high + margin
    return low, high


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10, 20) if m * power >= rough * (1 - 1e-9))
