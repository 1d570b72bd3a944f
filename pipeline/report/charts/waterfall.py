"""Waterfall: how accuracy falls and rises from hop to hop, up to the served model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from pipeline.artifacts import Hop
from pipeline.report.charts.frame import WIDE, sheet, shortened, text_width
from pipeline.report.charts.scale import linear
from pipeline.report.figures import grouped, signed
from pipeline.report.html import Html, element, fragment

ROW_PX = 38.0
LEAST_POINTS = 0.005
"""Differences that round to 0.00 points count as none."""


def draw_waterfall(hops: Sequence[Hop], width: int = WIDE) -> Html:
    """Draw one row a hop; a bar runs from the accuracy before to the accuracy after."""
    points = [100 * hop.top1 for hop in hops]
    losses = [0.0, *(a - b for a, b in pairwise(points))]
    worst = max(range(len(hops)), key=losses.__getitem__)
    wide = width >= WIDE
    names = [shortened(hop.name, 150 if wide else 100) for hop in hops]
    left = max(map(text_width, names), default=0) + 16
    right = width - (170 if wide else 118)
    value_at = right + (84.0 if wide else 62.0)
    low, high = min(points), max(points)
    margin = max((high - low) * 0.12, 0.05)
    count = 6 if wide else 3
    scale = replace(
        linear([low - margin, high + margin], tight=True, count=count), start=left, end=right
    )
    bottom = len(hops) * ROW_PX + 26
    grid = [
        fragment(
            element("line", x1=x, x2=x, y1=24.0, y2=bottom, class_="grid"),
            element("text", f"{label} %", x=x, y=14.0, class_="tick middle"),
        )
        for x, label in zip(map(scale, scale.ticks), scale.labels, strict=True)
    ]
    rows = []
    for i, hop in enumerate(hops):
        y = 26 + i * ROW_PX
        before = scale(points[i - 1]) if i else left
        after = scale(points[i])
        lost = losses[i] > LEAST_POINTS
        kind = (
            "base"
            if i == 0
            else "loss"
            if lost
            else "gain"
            if losses[i] < -LEAST_POINTS
            else "same"
        )
        worse = " worst" if lost and i == worst else ""
        told = f"{hop.name}: {points[i]:.2f} % over {hop.samples} samples"
        delta = "" if i == 0 else signed(-losses[i]) if kind != "same" else "0.00"
        rows += [
            element("text", names[i], x=left - 12, y=y + 23, class_=f"tick end{worse}"),
            element("rect", element("title", told), x=min(before, after), y=y + 8,
                    width=max(abs(after - before), 3.0), height=ROW_PX - 16, rx=2,
                    class_=f"step {kind}"),
            element("line", x1=after, x2=after, y1=y + 8, y2=y + ROW_PX + 8, class_="carry")
            if i + 1 < len(hops) else None,
            element("text", f"{grouped(points[i], 2)} %", x=value_at, y=y + 23,
                    class_="tick end strong"),
            element("text", delta, x=float(width - 4), y=y + 23, class_=f"tick end {kind}{worse}"),
        ]  # fmt: skip
    heads = (
        element("text", "top-1", x=value_at, y=14.0, class_="tick end"),
        element("text", "points", x=float(width - 4), y=14.0, class_="tick end"),
    )
    return sheet("Accuracy from hop to hop", told_loss(hops), width, bottom + 4, grid, rows, heads)


def told_loss(hops: Sequence[Hop]) -> str:
    """Return in a sentence what the hops cost together, and which of them costs most."""
    if len(hops) < 2:
        return (
            "Only one measurement: nothing to compare it with." if hops else "Nothing was measured."
        )
    losses = [100 * (a.top1 - b.top1) for a, b in pairwise(hops)]
    total = 100 * (hops[0].top1 - hops[-1].top1)
    first, last = (f"{hop.name} ({100 * hop.top1:.2f} %)" for hop in (hops[0], hops[-1]))
    ends = f"From {first} to {last}"
    steps = f"{len(losses)} hop" + ("s" if len(losses) > 1 else "")
    change = f"{abs(total):.2f} points are {'lost' if total > 0 else 'gained'} over {steps}"
    if abs(total) <= LEAST_POINTS:
        change = f"nothing is lost over {steps}"
    worst = max(range(len(losses)), key=losses.__getitem__)
    if losses[worst] <= LEAST_POINTS:
        return f"{ends} {change}; no hop loses accuracy."
    return f"{ends} {change}; {hops[worst + 1].name} costs most: {losses[worst]:.2f} points."
