"""Verdict: from measurements to what is accepted, chosen and promised; pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.artifacts import Gate, Hop, Variant
from pipeline.errors import StageFailed
from stages.export.config import ExportConfig


def judge(
    variants: Sequence[Variant], config: ExportConfig, sick: Mapping[str, int]
) -> tuple[Variant, ...]:
    """Return the variants, accepted where accurate enough and not slower than their parent."""
    parents = {(v.backend, v.dense): v for v in variants if v.precision == "fp32" and v.size_bytes}
    return tuple(
        _judge(
            variant,
            parents.get((variant.backend, variant.dense)),
            config,
            sick.get(variant.name, 0),
        )
        for variant in variants
    )


def _judge(variant: Variant, parent: Variant | None, config: ExportConfig, sick: int) -> Variant:
    reasons = [f"answers NaN or Inf on {sick} eval samples"] if sick else []
    if variant.drop_points is not None and variant.drop_points > config.max_drop:
        reasons.append(f"loses {variant.drop_points:.2f} points, {config.max_drop:g} are allowed")
    if variant.agreement is not None and variant.agreement < config.min_agreement:
        reasons.append(
            f"agrees with FP32 on {variant.agreement:.2%}, {config.min_agreement:.2%} are needed"
        )
    if parent is not None and parent is not variant:
        mine, other = _speed(variant, config), _speed(parent, config)
        if mine is not None and other is not None and mine < other * (1 - config.speed_tolerance):
            reasons.append(f"runs at {mine / other:.2f} times the speed of {parent.name}")
    return rejected(variant, *reasons) if reasons else variant


def rejected(variant: Variant, *reasons: str) -> Variant:
    """Return a variant as one that is not accepted, with the reasons before its note."""
    note = "; ".join([*reasons, *([variant.note] if variant.note else [])])
    return replace(variant, accepted=False, note=note)


def choose(variants: Sequence[Variant], config: ExportConfig) -> Variant:
    """Return the variant to be served: the one that is named, or the fastest that is accepted and
    runs here.

    Where none is accepted the most accurate one is returned; its gates say what is wrong with it.

    Raises:
        StageFailed: the named variant was not built, or nothing was that can run here.
    """
    built = [variant for variant in variants if variant.size_bytes]
    if config.choose != "fastest":
        for variant in built:
            if variant.name == config.choose:
                return variant
        raise StageFailed(
            f"export.choose: '{config.choose}' was not built. Built were: "
            f"{', '.join(v.name for v in built) or 'none'}. Name one of these, or set choose: "
            "fastest."
        )
    runnable = [variant for variant in built if variant.runs_here and variant.top1 is not None]
    if not runnable:
        raise StageFailed(
            f"export: none of {', '.join(v.name for v in variants)} was built and can run here, "
            "so nothing can be served. Add onnxruntime to backend."
        )
    accepted = [variant for variant in runnable if variant.accepted]
    if accepted:
        return max(accepted, key=lambda variant: _speed(variant, config) or 0.0)
    return max(runnable, key=lambda variant: variant.top1 or 0.0)


def gates(
    variants: Sequence[Variant], config: ExportConfig, sick: Mapping[str, int]
) -> tuple[Gate, ...]:
    """Return the promises: each variant was built, answers numbers, and keeps the accuracy.

    Args:
        variants: judged.
        config: where the limits stand.
        sick: per variant, how many eval samples it answered with NaN or Inf.
    """
    kept: list[Gate] = []
    for variant in variants:
        if not variant.size_bytes:
            kept.append(
                Gate(
                    name=f"{variant.name} builds",
                    passed=False,
                    value=0.0,
                    limit=1.0,
                    message=variant.note,
                )
            )
            continue
        if sick.get(variant.name):
            kept.append(_finite_gate(variant, sick[variant.name]))
        if variant.drop_points is not None:
            kept.append(_drop_gate(variant, variant.drop_points, config.max_drop))
        if variant.agreement is not None and config.min_agreement > 0.0:
            kept.append(_agreement_gate(variant, variant.agreement, config.min_agreement))
    return tuple(kept)


def hops(variants: Sequence[Variant], samples: int) -> tuple[Hop, ...]:
    """Return a step of the accuracy budget for each precision of the first backend that ran."""
    measured = [variant for variant in variants if variant.top1 is not None]
    backend = measured[0].backend if measured else ""
    return tuple(
        Hop(name=hop_name(variant), top1=variant.top1, samples=samples)
        for variant in measured
        if variant.backend == backend and variant.top1 is not None
    )


def hop_name(variant: Variant) -> str:
    """Return how the accuracy budget calls a variant: ``onnx int8``, ``dense tensorrt int8``."""
    maker = "onnx" if variant.format == "onnx" else variant.backend
    return f"{'dense ' if variant.dense else ''}{maker} {variant.precision}"


def _speed(variant: Variant, config: ExportConfig) -> float | None:
    if config.fastest_by == "throughput":
        return variant.images_per_s
    return 1e3 / variant.p50_ms if variant.p50_ms else None


def _finite_gate(variant: Variant, sick: int) -> Gate:
    return Gate(
        name=f"{variant.name} answers finite numbers",
        passed=False,
        value=sick,
        limit=0.0,
        unit="samples",
        message=f"{variant.name} answered NaN or Inf on {sick} eval samples; its type cannot hold "
        "the model's values.",
    )


def _drop_gate(variant: Variant, drop: float, limit: float) -> Gate:
    passed = drop <= limit
    change = f"loses {drop:.2f}" if drop >= 0 else f"gains {-drop:.2f}"
    remedy = (
        "" if passed else " Try another calibration method, more samples, or leave this precision."
    )
    return Gate(
        name=f"accuracy drop of {variant.name}",
        passed=passed,
        value=drop,
        limit=limit,
        unit="points",
        message=f"{variant.name} {change} points of top-1 against FP32; {limit:g} are "
        f"allowed.{remedy}",
    )


def _agreement_gate(variant: Variant, agreement: float, limit: float) -> Gate:
    return Gate(
        name=f"agreement of {variant.name}",
        passed=agreement >= limit,
        value=agreement,
        limit=limit,
        message=f"{variant.name} answers the class that FP32 answers on {agreement:.2%} of "
        f"samples; {limit:.2%} are needed.",
    )
