"""Tables: rows under heads, numbers aligned; also the numbers behind each chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from pipeline.report.blocks import (
    BarChart,
    Cell,
    Gantt,
    LineChart,
    Matrix,
    ScatterChart,
    Table,
)
from pipeline.report.figures import MISSING, column
from pipeline.report.html import Html, element, fragment

MOST_ROWS = 500
MOST_CHART_ROWS = 60


def draw_table(table: Table) -> Html:
    """Return a table in a box that scrolls sideways by itself."""
    rows, total = table.rows[:MOST_ROWS], len(table.rows)
    note = f"{MOST_ROWS} of {total} rows; report.json has them all." if total > MOST_ROWS else ""
    return fragment(draw_rows(table.title, table.columns, rows, table.highlight), _note(note))


def numbers_behind(chart: LineChart | ScatterChart | BarChart | Matrix | Gantt) -> Html:
    """Return a chart's numbers, folded: for readers who cannot see it, or want to copy them."""
    columns, rows = _chart_rows(chart)
    every = -(-len(rows) // MOST_CHART_ROWS) or 1
    note = f"Every {every}th of {len(rows)} rows; report.json has them all." if every > 1 else ""
    return folded_rows(chart.title, columns, rows[::every], note)


def folded_rows(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], note: str = ""
) -> Html:
    """Return rows that open at a click."""
    body = draw_rows(f"Numbers of: {title}", columns, rows)
    return element("details", element("summary", "Numbers"), body, _note(note), class_="numbers")


def draw_rows(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], highlight: Sequence[int] = ()
) -> Html:
    """Return rows under heads; `name` is read aloud when the box takes the focus."""
    cells = [[row[i] if i < len(row) else None for row in rows] for i in range(len(columns))]
    texts = [column_texts(column_cells) for column_cells in cells]
    kinds = ["number" if is_numeric(column_cells) else None for column_cells in cells]
    heads = [
        element("th", c, scope="col", class_=kind) for c, kind in zip(columns, kinds, strict=True)
    ]
    body = []
    for j in range(len(rows)):
        first, *rest = [(texts[i][j], kinds[i]) for i in range(len(columns))] or [("", None)]
        body.append(
            element(
                "tr",
                element("th", first[0], scope="row", class_=first[1]),
                *(element("td", text, class_=kind) for text, kind in rest),
                class_="chosen" if j in highlight else None,
            )
        )
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *body))
    return element("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)


def _chart_rows(
    chart: LineChart | ScatterChart | BarChart | Matrix | Gantt,
) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    match chart:
        case BarChart():
            head: tuple[str, ...] = ("name", f"value ({chart.unit})" if chart.unit else "value")
            return head, list(zip(chart.names, chart.values, strict=False))
        case Matrix():
            head = (f"{chart.row_label} \\ {chart.column_label}", *chart.names)
            return head, [(n, *row) for n, row in zip(chart.names, chart.values, strict=False)]
        case Gantt():
            head = ("", "work", "of", f"start, {chart.x_label}", f"end, {chart.x_label}")
            return head, [
                (chart.rows[s.row], chart.kinds[s.kind], s.label, s.start, s.end)
                for s in chart.spans
            ]
        case LineChart() | ScatterChart():
            xs = {series.x for series in chart.series}
            if isinstance(chart, LineChart) and len(xs) == 1:  # one column a curve
                head = (chart.x_label, *(series.name for series in chart.series))
                curves = [series.y for series in chart.series]
                return head, list(zip(*xs, *curves, strict=False))
            rows: list[tuple[Cell, ...]] = [
                (s.labels[i] if i < len(s.labels) else s.name, x, y)
                for s in chart.series
                for i, (x, y) in enumerate(zip(s.x, s.y, strict=False))
            ]
            return ("", chart.x_label, chart.y_label), rows


def is_numeric(cells: Sequence[Cell]) -> bool:
    """Tell whether a column holds numbers, and gaps at most."""
    return any(map(_is_number, cells)) and all(x is None or _is_number(x) for x in cells)


def column_texts(cells: Sequence[Cell]) -> list[str]:
    """Return a column as text; its numbers share their decimals."""
    numbers = iter(column([cell for cell in cells if _is_number(cell)]))
    return [next(numbers) if _is_number(cell) else _text(cell) for cell in cells]


def _is_number(cell: Cell) -> TypeGuard[int | float]:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _text(cell: Cell) -> str:
    if cell is None:
        return MISSING
    return ("yes" if cell else "no") if isinstance(cell, bool) else str(cell)


def _note(text: str) -> Html | None:
    return element("p", text, class_="caption") if text else None
