"""Timeline: when each stage ran and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.report.charts.frame import WIDE, sheet, shortened, text_width
from pipeline.report.charts.scale import linear
from pipeline.report.figures import duration, figure
from pipeline.report.html import Html, element, fragment

ROW_PX = 32.0
_UNITS = (("h", 3600), ("min", 60), ("s", 1))
_CLASS = {"ran": "ran", "cached": "cached", "failed": "failed", "interrupted": "failed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One stage's stretch of time."""

    name: str
    status: str
    start_s: float
    """Since the run began."""
    seconds: float


def draw_timeline(spans: Sequence[Span], width: int = WIDE) -> Html:
    """Draw one row a stage on a common axis of time."""
    wide = width >= WIDE
    names = [shortened(span.name, 150 if wide else 90) for span in spans]
    texts = [_note(span) for span in spans]
    left = max(map(text_width, names), default=0) + 14
    right = width - max(map(text_width, texts), default=0) - 16
    end = max((span.start_s + span.seconds for span in spans), default=1.0) or 1.0
    unit, unit_s = next((name, size) for name, size in _UNITS if end >= 2 * size or size == 1)
    ticks = linear([0.0, end / unit_s], tight=True, count=6 if wide else 3)
    scale = replace(ticks, start=left, end=right)
    bottom = len(spans) * ROW_PX + 26
    grid = [
        fragment(
            element("line", x1=x, x2=x, y1=22.0, y2=bottom, class_="grid"),
            element(
                "text", f"{figure(tick)} {unit}" if tick else "0", x=x, y=14.0, class_="tick middle"
            ),
        )
        for x, tick in zip(map(scale, scale.ticks), scale.ticks, strict=True)
    ]
    rows = []
    for i, span in enumerate(spans):
        y = 26 + i * ROW_PX
        x = scale(span.start_s / unit_s)
        length = scale((span.start_s + span.seconds) / unit_s) - x
        told = f"{span.name}: {texts[i]}"
        kind = _CLASS.get(span.status, "idle")
        rows += [
            element("text", names[i], x=left - 10, y=y + 20, class_="tick end"),
            element("rect", element("title", told), x=x, y=y + 7, width=max(length, 3.0),
                    height=ROW_PX - 14, rx=2, class_=f"span {kind}") if kind != "idle" else None,
            element("text", texts[i], x=float(width - 4), y=y + 20, class_="tick end strong"),
        ]  # fmt: skip
    description = "; ".join(f"{span.name} {text}" for span, text in zip(spans, texts, strict=True))
    return sheet("Stages over time", f"{description}.", width, bottom + 4, grid, rows)


def _note(span: Span) -> str:
    if span.status in _CLASS:
        spent = duration(span.seconds)
        return spent if span.status == "ran" else f"{span.status}, {spent}"
    return span.status
