"""Scatter chart: labelled points in a plane; series differ in colour and in shape."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

from pipeline.report.blocks import ScatterChart
from pipeline.report.charts.frame import (
    WIDE,
    Frame,
    axes,
    colour,
    make_frame,
    sheet,
    shortened,
    text_width,
)
from pipeline.report.charts.scale import drawable, has_logarithm, linear, logarithmic
from pipeline.report.figures import figure
from pipeline.report.html import Html, coordinate, element

LABEL_HEIGHT = 14.0
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1."""


def draw_scatter(chart: ScatterChart, width: int = WIDE) -> Html:
    """Draw the points; a label takes the first free side of its point or is left to the tooltip."""
    height = 330 if width >= WIDE else 300
    has_place = has_logarithm if chart.log_x else drawable
    points = [
        (index, x, y, series.labels[i] if i < len(series.labels) else "")
        for index, series in enumerate(chart.series)
        for i, (x, y) in enumerate(zip(series.x, series.y, strict=False))
        if has_place(x) and drawable(y)
    ]
    xs, ys = [p[1] for p in points], [p[2] for p in points]
    frame = make_frame(
        logarithmic(xs)
        if chart.log_x
        else linear(_with_margin(xs), count=6 if width >= WIDE else 4),
        linear(_with_margin(ys)),
        width=width,
        height=height,
        right_margin=12,
    )
    places = [(frame.x(x), frame.y(y)) for _, x, y, _ in points]
    boxes: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    drawn = []
    for (index, x, y, label), place in zip(points, places, strict=True):
        name = chart.series[index].name
        told = f"{label or name}: {chart.x_label} {figure(x)}, {chart.y_label} {figure(y)}"
        mark = element("path", element("title", told), d=_shape(index, *place), class_="point")
        written = _label(shortened(label, 170), place, boxes, frame)
        drawn.append(element("g", mark, written, class_=colour(index)))
    count = f"{len(points)} points" if len(points) != 1 else "1 point"
    description = f"{chart.y_label} against {chart.x_label}, {count}."
    return sheet(
        chart.title, description, width, height, axes(frame, chart.x_label, chart.y_label), drawn
    )


def _label(text: str, place: tuple[float, float], boxes: list[Box], frame: Frame) -> Html | None:
    if not text:
        return None
    (x, y), width = place, text_width(text)
    sides = (
        (x + 10, y - 7, "start"),
        (x - 10 - width, y - 7, "end"),
        (x - width / 2, y - 23, "middle"),
        (x - width / 2, y + 9, "middle"),
        (x + 8, y - 20, "start"),
        (x + 8, y + 6, "start"),
    )
    for left, top, anchor in sides:
        box = (left, top, left + width, top + LABEL_HEIGHT)
        inside = left >= frame.left and box[2] <= frame.right + 10
        inside = inside and top >= frame.top - 14 and box[3] <= frame.bottom
        if inside and not any(_overlap(box, other) for other in boxes):
            boxes.append(box)
            at = {"start": left, "end": left + width, "middle": left + width / 2}[anchor]
            return element("text", text, x=at, y=top + 11, class_=f"note {anchor}")
    return None


def _with_margin(values: Sequence[float]) -> list[float]:
    """Return the values and a little beyond them, so that no point sits on the edge."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * 0.06
    return [low - margin, high + margin]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _shape(index: int, x: float, y: float) -> str:
    """Return a circle, square, triangle, diamond, pentagon or hexagon as a path."""
    if index % 6 == 0:
        r = 5.5
        start = f"M{coordinate(x - r)} {coordinate(y)}"
        return f"{start}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    corners, turn = ((4, pi / 4), (3, -pi / 2), (4, 0.0), (5, -pi / 2), (6, 0.0))[index % 6 - 1]
    return _polygon(
        [
            (x + 7 * cos(turn + 2 * pi * i / corners), y + 7 * sin(turn + 2 * pi * i / corners))
            for i in range(corners)
        ]
    )


def _polygon(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in corners) + "z"
