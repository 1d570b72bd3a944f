"""Frame: the box that curves and points are drawn in, its axes, and the sheet around a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.report.charts.scale import Scale
from pipeline.report.html import Child, Html, element, fragment

CHARACTER_PX = 7.4
"""Width of a character in the charts, on the wide side: a label may end early, never be cut."""
WIDE, NARROW = 840, 360
NUM_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the plot lies on its sheet, and how numbers map into it."""

    left: float
    right: float
    top: float
    bottom: float
    x: Scale
    y: Scale


def text_width(text: str) -> float:
    """Return about how many pixels a text needs."""
    return len(text) * CHARACTER_PX


def shortened(text: str, width: float) -> str:
    """Return as much of a text as fits a width."""
    fits = max(1, int(width / CHARACTER_PX))
    return text if len(text) <= fits else text[: fits - 1] + "…"


def make_frame(x: Scale, y: Scale, *, width: int, height: int, right_margin: float) -> Frame:
    """Return the plot's box on a sheet, with room for the labels of both axes."""
    left = max(map(text_width, y.labels), default=0) + 12
    # The last label of the x axis is centred under its tick: half of it stands outside.
    overhang = text_width(x.labels[-1]) / 2 if x.labels else 0
    right, top, bottom = width - max(right_margin, overhang) - 2, 30.0, height - 44.0
    return Frame(
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x=replace(x, start=left, end=right),
        y=replace(y, start=bottom, end=top),
    )


def axes(frame: Frame, x_label: str, y_label: str) -> Html:
    """Return grid, ticks and the names of both axes; that of the y axis stands level, above it."""
    level = [
        element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid")
        for y in map(frame.y, frame.y.ticks)
    ]
    y_texts = [
        element("text", label, x=frame.left - 8, y=frame.y(tick) + 4, class_="tick end")
        for tick, label in zip(frame.y.ticks, frame.y.labels, strict=True)
    ]
    x_marks = [
        fragment(
            element("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 5, class_="axis"),
            element("text", label, x=x, y=frame.bottom + 18, class_="tick middle"),
        )
        for x, label in _without_crowding(frame.x)
    ]
    left, right, bottom = frame.left, frame.right, frame.bottom
    width = right - left
    return fragment(
        level,
        element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"),
        y_texts,
        x_marks,
        element("text", shortened(y_label, width), x=0.0, y=13.0, class_="label"),
        element(
            "text", shortened(x_label, width), x=right, y=bottom + 38, class_="label end"
        ),
    )  # fmt: skip


def sheet(title: str, description: str, width: int, height: float, *children: Child) -> Html:
    """Return the SVG around a drawing; its title and description are read aloud."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *children,
        role="img",
        viewBox=f"0 0 {width} {round(height)}",
        width=width,
        height=round(height),
    )


def legend(names: Sequence[str]) -> Html:
    """Return the series' names with their colours, for where labels do not fit beside them."""
    entries = [
        element("li", element("i", class_=f"{colour(i)} mark"), name)
        for i, name in enumerate(names)
    ]
    return element("ul", *entries, class_="legend")


def colour(index: int) -> str:
    """Return the class that colours the series of that index."""
    return f"s{index % NUM_COLOURS + 1}"


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places moved apart by at least `gap`, inside the bounds as long as they fit."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    floor = low
    for index in order:
        moved[index] = max(moved[index], floor)
        floor = moved[index] + gap
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved


def _without_crowding(scale: Scale) -> list[tuple[float, str]]:
    kept: list[tuple[float, str]] = []
    edge = float("-inf")
    for tick, label in zip(scale.ticks, scale.labels, strict=True):
        place, half = scale(tick), text_width(label) / 2
        if place - half > edge:
            kept.append((place, label))
            edge = place + half + 8
    return kept
