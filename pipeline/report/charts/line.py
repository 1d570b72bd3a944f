"""Line chart: curves over one axis, each named at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from pipeline.report.blocks import LineChart, Series
from pipeline.report.charts.frame import (
    WIDE,
    Frame,
    axes,
    colour,
    make_frame,
    sheet,
    shortened,
    spread,
    text_width,
)
from pipeline.report.charts.scale import drawable, has_logarithm, linear, logarithmic
from pipeline.report.figures import figure
from pipeline.report.html import Html, coordinate, element, fragment

MOST_POINTS = 300
MOST_DOTS = 40
MOST_LABELS = 6
LABEL_PX = 190

Point = tuple[float, float]


def draw_line(chart: LineChart, width: int = WIDE) -> Html:
    """Draw the curves; a value that is no number leaves a gap."""
    height = 300 if width >= WIDE else 260
    paths = [list(_points(series, log_y=chart.log_y)) for series in chart.series]
    known = [point for path in paths for point in path if point is not None]
    named = width >= WIDE and 1 < len(chart.series) <= MOST_LABELS
    names = [shortened(series.name, LABEL_PX) for series in chart.series] if named else []
    xs, ys = [x for x, _ in known], [y for _, y in known]
    frame = make_frame(
        linear(xs, tight=True, count=7 if width >= WIDE else 4),
        logarithmic(ys) if chart.log_y else linear(ys),
        width=width,
        height=height,
        right_margin=max(map(text_width, names), default=0) + 12,
    )
    ends = [next((p for p in reversed(path) if p is not None), None) for path in paths]
    places = spread(
        [frame.y(end[1]) if end else frame.bottom for end in ends], 15, frame.top, frame.bottom
    )
    curves = [
        _curve(i, s.name, path, frame)
        for i, (s, path) in enumerate(zip(chart.series, paths, strict=True))
    ]
    labels = [
        element("text", name, x=frame.right + 8, y=places[i] + 4, class_=f"{colour(i)} name")
        for i, name in enumerate(names)
    ]
    summary = "; ".join(
        f"{series.name}: {figure(end[1])} at {figure(end[0])}"
        for series, end in zip(chart.series, ends, strict=True)
        if end
    )
    description = f"{chart.y_label} over {chart.x_label}. At the end {summary or 'nothing'}."
    body = (axes(frame, chart.x_label, chart.y_label), curves, labels)
    return sheet(chart.title, description, width, height, *body)  # fmt: skip


def _points(series: Series, *, log_y: bool) -> Iterator[Point | None]:
    """Yield the points to draw, None for a gap; long curves keep the extremes of each stretch."""
    pairs = list(zip(series.x, series.y, strict=False))
    has_place = has_logarithm if log_y else drawable
    stretch = max(1, -(-len(pairs) // (MOST_POINTS // 2)))
    for start in range(0, len(pairs), stretch):
        part = pairs[start : start + stretch]
        good = [(x, y) for x, y in part if drawable(x) and has_place(y)]
        if len(good) < len(part):
            yield None
        if len(part) <= 2:
            yield from good
        elif good:
            low, high = min(good, key=lambda p: p[1]), max(good, key=lambda p: p[1])
            yield from sorted({low, high})


def _curve(index: int, name: str, path: Sequence[Point | None], frame: Frame) -> Html:
    places = [None if p is None else (frame.x(p[0]), frame.y(p[1]), p) for p in path]
    pieces = [
        "M" + "L".join(f"{coordinate(p[0])} {coordinate(p[1])}" for p in piece if p)
        for there, piece in groupby(places, key=lambda p: p is not None)
        if there
    ]
    known = [p for p in places if p]
    every = -(-len(known) // 80) or 1
    visible = len(known) <= MOST_DOTS
    dots = [
        element(
            "circle",
            element("title", f"{name}: {figure(value)} at {figure(at)}"),
            cx=x,
            cy=y,
            r=3 if visible else 7,
            class_="dot" if visible else "touch",
        )
        for x, y, (at, value) in known[::every]
    ]
    line = element("path", d="".join(pieces), class_="curve") if pieces else fragment()
    return element("g", line, dots, class_=f"{colour(index)} dash{index % 3}")
