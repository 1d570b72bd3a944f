"""Figures: numbers as a reader wants them: few digits, aligned, never ``0.30000000000000004``."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "\u2013"
_MINUS = "\u2212"
_NARROW_SPACE = "\u202f"
_MANY = 10_000


def figure(value: float | int | None, digits: int = 4) -> str:
    """Return a number with so many significant digits, or a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if isinstance(value, int):
        return grouped(value, 0)
    size = abs(value)
    if size and (size < 1e-4 or size >= 1e15):
        return f"{value:.{digits - 1}g}".replace("-", _MINUS)
    decimals = digits if not size else max(0, digits - 1 - math.floor(math.log10(size)))
    whole, _, rest = grouped(value, decimals).partition(".")
    rest = rest.rstrip("0")
    return f"{whole}.{rest}" if rest else whole


def grouped(value: float, decimals: int) -> str:
    """Return a number with fixed decimals, a true minus sign, and gaps between thousands."""
    text = f"{value:,.{decimals}f}" if abs(value) >= _MANY else f"{value:.{decimals}f}"
    if not float(text.replace(",", "")):
        text = text.lstrip("-")
    return text.replace(",", _NARROW_SPACE).replace("-", _MINUS)


def signed(value: float, decimals: int = 2) -> str:
    """Return a difference with its sign, zero without one."""
    text = grouped(value, decimals)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def column(values: Sequence[float | int | None]) -> list[str]:
    """Return a column of numbers with the same number of decimals, where that is readable."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    sizes = [abs(v) for v in known if v]
    fits = sizes and max(sizes) / min(sizes) < 1e4 and max(sizes) < 1e15 and min(sizes) >= 1e-4
    if not fits or all(isinstance(v, int) for v in known):
        return [figure(v) for v in values]
    wanted = 3 - math.floor(math.log10(min(sizes)))
    bearable = 4 - math.floor(math.log10(max(sizes)))
    decimals = max(0, min(4, wanted, bearable))
    while decimals and all(
        float(f"{v:.{decimals}f}") == float(f"{v:.{decimals - 1}f}") for v in known
    ):
        decimals -= 1
    return [
        grouped(v, decimals) if v is not None and math.isfinite(v) else figure(v) for v in values
    ]


def duration(seconds: float | None) -> str:
    """Return a time span in the unit a person would choose."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
