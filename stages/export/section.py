"""Section: what the export stage puts into the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.artifacts import ExportedModel, Variant
from pipeline.device import Device
from pipeline.report.blocks import Block, Cell, Facts, Note, ScatterChart, Section, Series, Table
from stages.export.calibrate import Ranges
from stages.export.config import ExportConfig
from stages.export.cpu import relevant_flags
from stages.export.dense import outcome
from stages.export.forms import FormChoice

_COLUMNS = (
    "variant", "MB", "top-1 %", "drop, points", "agreement %", "p50 ms", "p99 ms", "samples/s",
    "proof of precision", "verdict",
)  # fmt: skip


def describe(
    exported: ExportedModel,
    config: ExportConfig,
    ranges: Ranges | None,
    facts: Mapping[str, str | int | float],
    forms: Sequence[FormChoice],
    device: Device,
    noun: str = "image",
) -> Section:
    """Compose the chapter: what was chosen, every figure, and what could not be measured."""
    chosen = exported.variant(exported.chosen)
    blocks: list[Block] = [
        _verdict(chosen),
        *_outcome(exported, config),
        _table(exported, config, device, noun),
    ]
    if any(variant.top1 is not None for variant in exported.variants):
        blocks.append(_scatter(exported))
    if ranges is not None:
        blocks.append(_calibration(ranges))
    if facts:
        blocks.append(Facts(title="Graph", items=tuple(facts.items())))
    if forms:
        blocks.append(_forms(forms))
        warnings = filter(None, (choice.warning() for choice in forms))
        blocks += [Note(level="warning", text=warning) for warning in warnings]
    blocks.extend(_unmeasured(exported))
    return Section(title="Export", summary=_summary(chosen, noun), blocks=tuple(blocks))


def _forms(forms: Sequence[FormChoice]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for choice in forms:
        first, *others = choice.layers
        layer = f"{first} (+ {len(others)})" if others else first
        for form, times in choice.times_ms.items():
            ms = (round(each, 4) for each in times.values())
            rows.append((layer, form, *ms, _kept(form, choice)))
        if choice.dense_ms:
            ms = (round(each, 4) for each in choice.dense_ms.values())
            rows.append((layer, "dense, of that size", *ms, f"kept is {choice.speedup:.2f} x"))
    batches = next(iter(forms[0].times_ms.values()))
    return Table(
        title="Forms of layers",
        columns=("layer", "form", *(f"ms at batch {batch}" for batch in batches), ""),
        rows=tuple(rows),
        caption="Layers that a graph can compute in several ways, timed alone in ONNX Runtime with "
        "what they take in for real samples. All forms answer the same; a dense layer with as many "
        "neurons stands beside them for comparison.",
    )


def _kept(form: str, choice: FormChoice) -> str:
    if form == choice.form:
        return "kept"
    return "kept where operators are plain" if form == choice.plain else ""


def _summary(chosen: Variant, noun: str) -> str:
    if chosen.top1 is None:
        return f"{chosen.name} is served; it cannot run on this machine."
    drop = "" if chosen.drop_points is None else f", {chosen.drop_points:+.2f} points lost"
    speed = f"{chosen.images_per_s:.0f} {noun}s/s"
    return f"{chosen.name} is served: top-1 {chosen.top1:.2%}{drop}, {speed}."


def _verdict(chosen: Variant) -> Note:
    if chosen.accepted:
        return Note(level="good", text=f"{chosen.name} is the variant that is served.")
    return Note(level="bad", text=f"No variant was accepted; {chosen.name}: {chosen.note}")


def _outcome(exported: ExportedModel, config: ExportConfig) -> list[Note]:
    """Say which of two networks is served."""
    text = outcome(exported.variants, exported.variant(exported.chosen), config)
    return [Note(level="info", text=text)] if text else []


def _table(exported: ExportedModel, config: ExportConfig, device: Device, noun: str) -> Table:
    names = [variant.name for variant in exported.variants]
    return Table(
        title="Precision x backend",
        columns=_COLUMNS,
        rows=tuple(_row(variant, exported.chosen) for variant in exported.variants),
        highlight=(names.index(exported.chosen),),
        caption=(
            f"Latency at batch {config.batch.min}, {noun}s/s at batch {config.batch.opt}, on "
            f"{device} ({relevant_flags()}), {config.latency.threads or 'all'} threads; the "
            "variants took turns. Drop and agreement are against the same network in FP32. The "
            "proof counts convolutions and matrix products by the type they are executed in."
        ),
    )


def _row(variant: Variant, chosen: str) -> tuple[Cell, ...]:
    return (
        variant.name,
        round(variant.size_bytes / 1e6, 2) if variant.size_bytes else None,
        _rounded(variant.top1, 100, 2),
        _rounded(variant.drop_points, 1, 2),
        _rounded(variant.agreement, 100, 2),
        _rounded(variant.p50_ms, 1, 3),
        _rounded(variant.p99_ms, 1, 3),
        _rounded(variant.images_per_s, 1, 1),
        ", ".join(f"{count} {kind}" for kind, count in sorted(variant.proof.items())) or None,
        ": ".join(filter(None, [_standing(variant, chosen), variant.note])),
    )


def _standing(variant: Variant, chosen: str) -> str:
    """Return what became of a variant in a word or two."""
    if variant.name == chosen:
        return "chosen"
    if not variant.size_bytes:
        return "not built"
    if not variant.accepted:
        return "rejected"
    return "accepted" if variant.top1 is not None else "unjudged"


def _rounded(value: float | None, factor: float, digits: int) -> float | None:
    return None if value is None else round(value * factor, digits)


def _scatter(exported: ExportedModel) -> ScatterChart:
    measured = [variant for variant in exported.variants if variant.top1 is not None]
    makers = dict.fromkeys((variant.backend, variant.dense) for variant in measured)
    return ScatterChart(
        title="Accuracy against latency",
        x_label="p50 latency, ms",
        y_label="top-1, %",
        series=tuple(
            _series(
                f"{backend}{', dense' if dense else ''}",
                [v for v in measured if (v.backend, v.dense) == (backend, dense)],
            )
            for backend, dense in makers
        ),
        caption="Better is up and to the left.",
    )


def _series(name: str, variants: list[Variant]) -> Series:
    return Series(
        name=name,
        x=tuple(variant.p50_ms or 0.0 for variant in variants),
        y=tuple(100 * (variant.top1 or 0.0) for variant in variants),
        labels=tuple(variant.precision for variant in variants),
    )


def _calibration(ranges: Ranges) -> Facts:
    scores = tuple(
        (f"SQNR with {method}, dB", round(score, 2)) for method, score in ranges.sqnr_db.items()
    )
    return Facts(
        title="Calibration",
        items=(
            ("method", ranges.method),
            ("samples", ranges.samples),
            ("tensors with a range", len(ranges.tensors)),
            *scores,
            ("key", ranges.key[:16]),
        ),
    )


def _unmeasured(exported: ExportedModel) -> list[Block]:
    blocks: list[Block] = []
    failed = [variant for variant in exported.variants if not variant.size_bytes]
    idle = [
        variant for variant in exported.variants if variant.size_bytes and not variant.runs_here
    ]
    if idle:
        names = ", ".join(variant.name for variant in idle)
        blocks.append(
            Note(
                level="warning",
                text=f"Built but not run here: {names}. Their accuracy and speed are unknown; the "
                "proof shows only that they were compiled in the precision they claim.",
            )
        )
    blocks.extend(
        Note(level="bad", text=f"{variant.name} was not built: {variant.note}")
        for variant in failed
    )
    return blocks
