"""Bar chart: one level bar a name, so that long names stay readable."""

from __future__ import annotations

from pipeline.report.blocks import BarChart
from pipeline.report.charts.frame import WIDE, sheet, shortened, text_width
from pipeline.report.charts.scale import drawable
from pipeline.report.figures import column
from pipeline.report.html import Html, element

MOST_BARS = 40
ROW_PX = 26


def draw_bar(chart: BarChart, width: int = WIDE) -> Html:
    """Draw the bars from zero; beyond forty, the first forty."""
    pairs = list(zip(chart.names, chart.values, strict=False))[:MOST_BARS]
    unit = f" {chart.unit}" if chart.unit else ""
    known = [value if drawable(value) else 0.0 for _, value in pairs]
    low, high = min([0.0, *known]), max([0.0, *known])
    span = high - low or 1.0
    names = [shortened(name, width * 0.34) for name, _ in pairs]
    texts = [text + unit for text in column([value for _, value in pairs])]
    left = max(map(text_width, names), default=0) + 12
    room = width - left - max(map(text_width, texts), default=0) - 12
    rows = []
    for i, (name, value) in enumerate(pairs):
        y = i * ROW_PX + 4.0
        start = left + (min(0.0, known[i]) - low) / span * room
        length = abs(known[i]) / span * room
        rows += [
            element("text", names[i], x=left - 10, y=y + 14, class_="tick end"),
            element(
                "rect",
                element("title", f"{name}: {texts[i]}"),
                x=start, y=y, width=max(length, 1.0), height=ROW_PX - 8, rx=2, class_="bar s1",
            ),
            element("text", texts[i], x=start + length + 8, y=y + 14, class_="tick strong"),
        ]  # fmt: skip
        assert value is not None
    listed = ", ".join(
        f"{name} {text}" for (name, _), text in list(zip(pairs, texts, strict=True))[:8]
    )
    return sheet(
        chart.title, f"{len(chart.names)} bars: {listed}.", width, len(pairs) * ROW_PX + 8, rows
    )
