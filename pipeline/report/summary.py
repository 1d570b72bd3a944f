"""Summary: what every report has: verdict, accuracy, time, environment, commands."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from pipeline.report.blocks import Cell
from pipeline.report.charts.timeline import Span, draw_timeline
from pipeline.report.charts.waterfall import draw_waterfall, told_loss
from pipeline.report.document import Document, StageEntry, StageGate
from pipeline.report.drawing import draw_code, draw_facts, responsive
from pipeline.report.figures import duration, figure
from pipeline.report.html import Html, element, fragment
from pipeline.report.tables import draw_rows, folded_rows


def headline(document: Document) -> tuple[str, str]:
    """Return the level (good, warning, bad) and the sentence that stands on top."""
    broken = [stage for stage in document.stages if stage.status in ("failed", "interrupted")]
    if broken:
        ended = "was interrupted" if broken[0].status == "interrupted" else "failed"
        return (
            "warning" if broken[0].status == "interrupted" else "bad",
            f"Stage {broken[0].name} {ended}",
        )
    failed, total = len(document.failed_gates), len(document.gates)
    if failed:
        return "bad", f"{failed} of {total} gates did not hold"
    missing = [stage for stage in document.stages if stage.status == "not reached"]
    if missing or not document.stages:
        names = ", ".join(stage.name for stage in missing) or "every stage"
        return "warning", f"Incomplete: {names} not reached"
    if not total:
        return "warning", "Finished; nothing was promised, so nothing was checked"
    return "good", f"All {total} gates hold" if total > 1 else "The gate holds"


def draw_verdict(document: Document) -> Html:
    """Return the headline, each gate, and what went wrong."""
    level, sentence = headline(document)
    mark = {"good": "✓", "warning": "!", "bad": "✕"}[level]
    banner = element(
        "div",
        element("span", mark, class_="seal", aria_hidden="true"),
        element("h2", sentence, id="verdict-title"),
        class_=f"banner {level}",
    )  # fmt: skip
    gates = sorted(document.gates, key=lambda gate: gate.passed)
    cards = element("ul", *map(_gate, gates), class_="gates") if gates else None
    errors = [
        fragment(element("h3", f"Why {stage.name} stopped"), draw_code(stage.error))
        for stage in document.stages
        if stage.error
    ]
    unread = [
        element("p", f"Could not be read: {p}", class_="note warning") for p in document.problems
    ]
    return fragment(banner, errors, cards, unread)


def bound(gate: StageGate) -> str:
    """Return on which side of its limit a gate wants its value, as far as the result tells."""
    if gate.value == gate.limit:
        return "limit"
    return "at most" if (gate.value < gate.limit) == gate.passed else "at least"


def draw_accuracy(document: Document) -> Html:
    """Return the waterfall over the hops."""
    hops = document.hops
    first = hops[0].top1
    rows: list[tuple[Cell, ...]] = [
        (hop.name, hop.stage, 100 * hop.top1, 100 * (hop.top1 - (hops[i - 1].top1 if i else first)),
         100 * (hop.top1 - first), hop.samples)
        for i, hop in enumerate(hops)
    ]  # fmt: skip
    columns = (
        "hop",
        "stage",
        "top-1 (%)",
        "against the hop before",
        "against the first",
        "samples",
    )
    return fragment(
        element("p", told_loss(hops), class_="lead"),
        element("figure", responsive(lambda width: draw_waterfall(hops, width))),
        folded_rows("Accuracy", columns, rows),
    )


def draw_stages(document: Document) -> Html:
    """Return the timeline and the table of stages."""
    starts = [stage.started for stage in document.stages if stage.started]
    begin = min(starts, default=0.0)
    spans = [
        Span(
            name=stage.name,
            status=stage.status,
            start_s=max(0.0, stage.started - begin) if stage.started else 0.0,
            seconds=max(0.0, stage.seconds),
        )
        for stage in document.stages
    ]
    rows = [
        (s.name, s.uses, s.status, duration(s.seconds) if s.started else None, s.reason)
        for s in document.stages
    ]
    return fragment(
        element("figure", responsive(lambda width: draw_timeline(spans, width))),
        draw_rows("Stages", ("stage", "uses", "what happened", "time", "why"), rows),
    )


def draw_environment(document: Document) -> Html:
    """Return what the run was made with; nested parts become tables of their own."""
    plain = tuple(
        (_title(key), _cell(v))
        for key, v in document.environment.items()
        if not isinstance(v, dict)
    )
    nested = [
        fragment(
            element("h3", _title(key)),
            draw_rows(_title(key), ("name", "value"), _flat_rows(value)),
        )
        for key, value in document.environment.items()
        if isinstance(value, dict)
    ]
    return fragment(draw_facts(plain) if plain else None, nested)


def draw_commands(document: Document) -> Html:
    """Return each command, ready to be copied."""
    return fragment(draw_code(command, "shell") for command in document.commands)


def describe_stage(stage: StageEntry) -> Html:
    """Return a line under a stage's title: which stage, what happened, how long."""
    parts = [
        stage.uses or stage.name,
        stage.status,
        duration(stage.seconds) if stage.started else "",
    ]
    return element("p", " · ".join(part for part in parts if part), class_="eyebrow")


def _gate(gate: StageGate) -> Html:
    state, mark = ("good", "✓ holds") if gate.passed else ("bad", "✕ broken")
    unit = f" {gate.unit}" if gate.unit else ""
    return element(
        "li",
        element("p", element("span", mark, class_="pill"), gate.stage, class_="eyebrow"),
        element("h3", gate.name),
        element("p", element("strong", figure(gate.value)), unit, class_="value"),
        element("p", f"{bound(gate)} {figure(gate.limit)}{unit}", class_="limit"),
        element("p", gate.message, class_="message") if gate.message else None,
        class_=state,
    )  # fmt: skip


def _flat_rows(value: JsonValue) -> list[tuple[Cell, ...]]:
    """Return a nested part as names and texts: its numbers have nothing in common to align by."""
    shown = ((name, cell) for name, cell in _flat(value))
    return [
        (n, figure(c) if isinstance(c, float) else None if c is None else str(c)) for n, c in shown
    ]


def _flat(value: JsonValue, prefix: str = "") -> Iterator[tuple[str, Cell]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, _cell(value)


def _cell(value: JsonValue) -> Cell:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value) if isinstance(value, dict) else value


def _title(key: str) -> str:
    return key.replace("_", " ")
