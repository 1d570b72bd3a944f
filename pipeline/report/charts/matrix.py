"""Matrix: a heat map whose diagonal (right) and remainder (wrong) have colours of their own."""

from __future__ import annotations

from math import sqrt

from pipeline.report.blocks import Matrix
from pipeline.report.charts.frame import WIDE, sheet, shortened, text_width
from pipeline.report.figures import figure
from pipeline.report.html import Html, element

MOST_NUMBERS = 20
MOST_NAMES = 40


def draw_matrix(chart: Matrix, width: int = WIDE) -> Html:
    """Draw the cells, shaded by their share of the row; small matrices carry their numbers."""
    n = len(chart.names)
    rows = [row[:n] for row in chart.values[:n]]
    named = n <= MOST_NAMES and width / max(1, n) > 14
    names = [shortened(name, 90 if width < WIDE else 140) for name in chart.names] if named else []
    left = max(map(text_width, names), default=0) + 26
    square = min((width - left - 4) / max(1, n), 46.0)
    # Names above the columns stand upright when one of them is wider than its column.
    upright = any(text_width(name) > square - 4 for name in names)
    top = (max(map(text_width, names), default=0) if upright else 16) + 30
    cells = [
        _cell(
            chart,
            i,
            j,
            left + j * square,
            top + i * square,
            square,
            numbered=n <= MOST_NUMBERS and square >= 20,
        )
        for i, row in enumerate(rows)
        for j, count in enumerate(row)
        if count
    ]
    size = n * square
    heads = []
    for i, name in enumerate(names):
        middle = (i + 0.5) * square
        heads.append(element("text", name, x=left - 8, y=top + middle + 4, class_="tick end"))
        x, y = left + middle, top - 8
        turned = {"transform": f"rotate(-90 {x + 4:.1f} {y:.1f})"} if upright else {}
        place = "start" if upright else "middle"
        heads.append(
            element(
                "text", name, x=x + (4 if upright else 0), y=y, class_=f"tick {place}", **turned
            )
        )
    middle = top + size / 2
    frame = (
        element("rect", x=left, y=top, width=size, height=size, class_="board"),
        element("text", shortened(chart.column_label, size), x=left + size / 2, y=13.0,
                class_="label middle"),
        element("text", shortened(chart.row_label, size), x=11.0, y=middle, class_="label middle",
                transform=f"rotate(-90 11 {middle:.1f})"),
    )  # fmt: skip
    total = sum(sum(row) for row in rows)
    right = sum(row[i] for i, row in enumerate(rows) if i < len(row))
    description = f"{n} by {n}; {figure(right)} of {figure(total)} on the diagonal."
    return sheet(chart.title, description, width, top + size + 6, frame, cells, heads)


def _cell(
    chart: Matrix, i: int, j: int, x: float, y: float, square: float, *, numbered: bool
) -> Html:
    count, total = chart.values[i][j], sum(chart.values[i])
    share = count / total if total else 0.0
    # The square root keeps single mistakes visible beside hundreds of right answers.
    shade = 0.12 + 0.88 * sqrt(share)
    kind = "right" if i == j else "wrong"
    place = f"{chart.row_label} {chart.names[i]}, {chart.column_label} {chart.names[j]}"
    told = f"{place}: {count} ({share:.1%})"
    mark = element(
        "rect", element("title", told), x=x + 1, y=y + 1, width=square - 2, height=square - 2, rx=2,
        class_=kind, fill_opacity=round(shade, 3),
    )  # fmt: skip
    ink = "number over" if shade > 0.62 else "number"
    label = str(count)
    fits = numbered and text_width(label) <= square - 2
    number = (
        element("text", label, x=x + square / 2, y=y + square / 2 + 4, class_=ink) if fits else None
    )
    return element("g", mark, number)
