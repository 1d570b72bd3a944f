"""Whatever the numbers are, a chart is valid XML and everything in it lies on its sheet."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.artifacts import Hop
from pipeline.report.blocks import (
    BarChart,
    Gantt,
    GanttSpan,
    LineChart,
    Matrix,
    ScatterChart,
    Series,
)
from pipeline.report.charts.bar import draw_bar
from pipeline.report.charts.frame import NARROW, WIDE, spread
from pipeline.report.charts.gantt import MOST_SPANS, draw_gantt, gantt_key
from pipeline.report.charts.line import draw_line
from pipeline.report.charts.matrix import draw_matrix
from pipeline.report.charts.scale import linear, logarithmic
from pipeline.report.charts.scatter import draw_scatter
from pipeline.report.charts.timeline import Span, draw_timeline
from pipeline.report.charts.waterfall import draw_waterfall, told_loss
from pipeline.report.figures import column, figure, signed

anything = st.floats(allow_nan=True, allow_infinity=True)
ordinary = st.floats(-1e12, 1e12)
names = st.text(max_size=30)
widths = st.sampled_from([WIDE, NARROW])
pairs = st.lists(st.tuples(anything, anything), max_size=30)


def assert_on_sheet(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for node in root.iter():
        for keys, limit in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2", "cy"), height)):
            for key in keys:
                if key in node.attrib:
                    assert -1 <= float(node.attrib[key]) <= limit + 1, (node.tag, node.attrib)
        for key in ("width", "height"):
            assert float(node.attrib.get(key, 0)) >= 0
        if "d" in node.attrib and node.attrib.get("class") == "curve":
            for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", node.attrib["d"]):
                assert 0 <= float(x) <= width
                assert 0 <= float(y) <= height


def series_of(points: list[tuple[float, float]], name: str) -> Series:
    return Series(
        name=name,
        x=tuple(p[0] for p in points),
        y=tuple(p[1] for p in points),
        labels=(name,) * len(points),
    )


@settings(deadline=None, max_examples=25)
@example([[(0.0, 0.0), (0.0, 5e-324)]], "", False, WIDE)
@example([[(0.0, 5e-324)]], "", True, WIDE)
@given(st.lists(pairs, max_size=4), names, st.booleans(), widths)
def test_any_curves_stay_inside(
    data: list[list[tuple[float, float]]], name: str, log: bool, width: int
) -> None:
    series = tuple(series_of(points, name) for points in data)
    assert_on_sheet(
        draw_line(
            LineChart(title=name, x_label=name, y_label=name, series=series, log_y=log), width
        )
    )


@settings(deadline=None, max_examples=25)
@example([[(0.0, 0.0), (5e-324, 5e-324)]], "", False, WIDE)
@example([[(5e-324, 0.0)]], "", True, WIDE)
@given(st.lists(pairs, max_size=3), names, st.booleans(), widths)
def test_any_points_stay_inside(
    data: list[list[tuple[float, float]]], name: str, log: bool, width: int
) -> None:
    series = tuple(series_of(points, name) for points in data)
    assert_on_sheet(
        draw_scatter(
            ScatterChart(title=name, x_label=name, y_label=name, series=series, log_x=log), width
        )
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(names, anything), max_size=50), widths)
def test_any_bars_stay_inside(bars: list[tuple[str, float]], width: int) -> None:
    chart = BarChart(title="t", names=tuple(n for n, _ in bars), values=tuple(v for _, v in bars))
    assert_on_sheet(draw_bar(chart, width))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 60), st.data(), widths)
def test_any_matrix_stays_inside(size: int, data: st.DataObject, width: int) -> None:
    row = st.lists(st.integers(0, 500), min_size=size, max_size=size).map(tuple)
    values = tuple(data.draw(row) for _ in range(min(size, 4)))
    labels = tuple(data.draw(names) for _ in range(size))
    chart = Matrix(title="t", row_label="true", column_label="said", names=labels, values=values)
    assert_on_sheet(draw_matrix(chart, width))


@settings(deadline=None, max_examples=25)
@given(st.lists(names, max_size=5), st.integers(1, 3), st.data(), widths)
def test_any_spans_stay_inside(
    rows: list[str], kinds: int, data: st.DataObject, width: int
) -> None:
    span = st.builds(
        GanttSpan,
        row=st.integers(0, len(rows) - 1),
        kind=st.integers(0, kinds - 1),
        start=anything,
        end=anything,
        label=names,
    )
    spans = data.draw(st.lists(span, max_size=9)) if rows else []
    chart = Gantt(
        title="t",
        x_label="ms",
        rows=tuple(rows),
        kinds=("forward", "backward", "other")[:kinds],
        spans=tuple(spans),
    )
    assert_on_sheet(draw_gantt(chart, width))


def test_kinds_of_work_differ_in_height_too_and_what_is_left_out_is_told() -> None:
    spans = tuple(
        GanttSpan(row=0, kind=i % 2, start=float(i), end=i + 1.0, label=str(i))
        for i in range(MOST_SPANS + 2)
    )
    chart = Gantt(title="t", x_label="ms", rows=("a",), kinds=("forward", "backward"), spans=spans)
    marks = [n.attrib for n in ElementTree.fromstring(draw_gantt(chart)).iter() if "rx" in n.attrib]
    heights = {mark["class"]: mark["y"] for mark in marks if mark["class"].startswith("work")}
    assert len(set(heights.values())) == 2
    assert "backward (lower half)" in gantt_key(chart)
    assert f"The first {MOST_SPANS} of {MOST_SPANS + 2} spans." in gantt_key(chart)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(names, st.floats(0, 1)), min_size=1, max_size=9), widths)
def test_any_hops_stay_inside(hops: list[tuple[str, float]], width: int) -> None:
    assert_on_sheet(draw_waterfall([Hop(name=n, top1=t, samples=9) for n, t in hops], width))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(names, st.floats(0, 1e7), st.floats(0, 1e6)), max_size=9), widths)
def test_any_stages_stay_inside(stages: list[tuple[str, float, float]], width: int) -> None:
    spans = [Span(name=n, status="ran", start_s=s, seconds=d) for n, s, d in stages]
    assert_on_sheet(draw_timeline(spans, width))


@given(st.lists(ordinary, max_size=20), st.integers(2, 9))
def test_ticks_rise_and_enclose_the_values(values: list[float], count: int) -> None:
    scale = linear(values, count=count)
    assert all(a < b for a, b in pairwise(scale.ticks))
    slack = (scale.high - scale.low) * 1e-6
    assert all(scale.low - slack <= value <= scale.high + slack for value in values)
    coarse = scale.high - scale.low > 1e-4 * max(abs(scale.high), abs(scale.low))
    assert not coarse or len(set(scale.labels)) == len(scale.labels)


@given(st.lists(st.floats(1e-9, 1e12), min_size=1, max_size=20))
def test_logarithmic_ticks_rise_and_enclose_the_values(values: list[float]) -> None:
    scale = logarithmic(values)
    assert all(a < b for a, b in pairwise(scale.ticks))
    assert all(0 <= scale(tick) <= 1 for tick in scale.ticks)
    assert all(scale.low * (1 - 1e-6) <= v <= scale.high * (1 + 1e-6) for v in values)


@given(st.lists(st.floats(0, 100), max_size=6))
def test_labels_that_are_spread_keep_their_distance(places: list[float]) -> None:
    moved = sorted(spread(places, 15, 0, 100))
    assert all(b - a >= 15 - 1e-6 for a, b in pairwise(moved))


@pytest.mark.parametrize(
    ("top1", "told"),
    [
        ((0.98, 0.98, 0.97), "c costs most: 1.00 points"),
        ((0.97, 0.98), "no hop loses accuracy"),
        ((0.9, 0.9), "nothing is lost"),
        ((0.9,), "nothing to compare"),
    ],
)
def test_the_hop_that_costs_most_is_named(top1: tuple[float, ...], told: str) -> None:
    hops = [Hop(name=name, top1=t, samples=10) for name, t in zip("abc", top1, strict=False)]
    assert told in told_loss(hops)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1 + 0.2, "0.3"),
        (12345.678, "12\u202f346"),
        (1797, "1797"),
        (-0.5, "\u22120.5"),
        (0.0, "0"),
        (1e-7, "1e\u221207"),
        (float("nan"), "\u2013"),
        (None, "\u2013"),
        (float("inf"), "∞"),
    ],
)
def test_figures_are_short(value: float | None, shown: str) -> None:
    assert figure(value) == shown


def test_a_column_shares_its_decimals() -> None:
    assert column([0.975, 0.9721, None]) == ["0.9750", "0.9721", "\u2013"]
    assert column([5.0, 12.0]) == ["5", "12"]
    assert signed(-0.28) == "\u22120.28"
    assert signed(0.0) == "0.00"
