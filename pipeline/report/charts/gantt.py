"""Gantt chart: rows over a common axis of time; the kinds of work lie at heights of their own."""

from __future__ import annotations

from dataclasses import replace

from pipeline.report.blocks import Gantt, GanttSpan
from pipeline.report.charts.frame import WIDE, colour, legend, sheet, shortened, text_width
from pipeline.report.charts.scale import drawable, linear
from pipeline.report.figures import figure
from pipeline.report.html import Html, element, fragment

MOST_SPANS = 1200
TRACK_PX, GAP_PX = 17.0, 9.0
_TOP = 26.0
_PLACES = {1: ("",), 2: ("upper half", "lower half"), 3: ("above", "middle", "below")}
_DIGIT_PX = 6.2
"""Width of a character of the labels inside."""


def draw_gantt(chart: Gantt, width: int = WIDE) -> Html:
    """Draw the spans, at most the first 1,200, with their labels where they fit."""
    wide = width >= WIDE
    names = [shortened(name, 200 if wide else 84) for name in chart.rows]
    left = max(map(text_width, names), default=0) + 14
    spans = [s for s in chart.spans[:MOST_SPANS] if drawable(s.start) and drawable(s.end)]
    ticks = linear([0.0, *(s.end for s in spans)], tight=True, count=7 if wide else 3)
    scale = replace(ticks, start=left, end=width - 22.0)
    row_px = TRACK_PX * len(chart.kinds) + GAP_PX
    bottom = _TOP + row_px * len(names)
    lanes = [
        fragment(
            element("rect", x=left, y=_TOP + i * row_px, width=scale.end - left,
                    height=row_px - GAP_PX, rx=3, class_="lane"),
            element("text", name, x=left - 10, y=_TOP + i * row_px + (row_px - GAP_PX) / 2 + 4,
                    class_="tick end"),
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    grid = [
        fragment(
            element("line", x1=x, x2=x, y1=_TOP - 4, y2=bottom - GAP_PX + 4, class_="grid"),
            element("text", label, x=x, y=14.0, class_="tick middle"),
        )
        for x, label in zip(map(scale, scale.ticks), scale.labels, strict=True)
    ]
    drawn = []
    for span in spans:
        start = min(max(scale(span.start), left), scale.end)
        end = min(max(scale(span.end), start), scale.end)
        y = _TOP + span.row * row_px + span.kind * TRACK_PX
        drawn.append(_work(chart, span, start, end - start, y))
    name = element(
        "text", shortened(chart.x_label, scale.end - left), x=scale.end, y=bottom + 12,
        class_="label end",
    )  # fmt: skip
    description = f"{len(chart.spans)} spans of {', '.join(chart.kinds)} on {len(names)} rows."
    return sheet(chart.title, description, width, bottom + 20, lanes, grid, drawn, name)


def gantt_key(chart: Gantt) -> Html:
    """Return the kinds of work with colour and height, and a note on what is not drawn."""
    places = _PLACES[len(chart.kinds)]
    named = [
        f"{kind} ({place})" if place else kind
        for kind, place in zip(chart.kinds, places, strict=True)
    ]
    missing = len(chart.spans) - MOST_SPANS
    note = f"The first {MOST_SPANS} of {len(chart.spans)} spans." if missing > 0 else ""
    return fragment(legend(named), element("p", note, class_="caption") if note else None)


def _work(chart: Gantt, span: GanttSpan, x: float, width: float, y: float) -> Html:
    told = (
        f"{chart.rows[span.row]}, {chart.kinds[span.kind]} {span.label}: "
        f"{figure(span.start)} to {figure(span.end)} {chart.x_label}"
    )
    fits = span.label and len(span.label) * _DIGIT_PX + 3 <= width
    return element(
        "g",
        element("rect", element("title", told), x=x, y=y + 1, width=max(width, 0.75),
                height=TRACK_PX - 2, rx=1.5, class_=f"work {colour(span.kind)}"),
        element("text", span.label, x=x + width / 2, y=y + TRACK_PX - 5, class_="inside")
        if fits else None,
    )  # fmt: skip
