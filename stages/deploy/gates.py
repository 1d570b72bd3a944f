"""Gates of the deploy stage: the server answers as the model did, and fast enough."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.artifacts import Gate, Hop
from stages.deploy.load import LoadResult
from stages.deploy.verify import Check


def served_hops(checks: Sequence[Check]) -> tuple[Hop, ...]:
    """Return the accuracy through the server: of pixels, and of image files where they are served.

    The latter shows what is lost where the server's decoder and resize differ from the loader's.
    """
    names = ("served", "served from files")
    first_of = {check.model: check for check in reversed(checks)}
    models = dict.fromkeys(check.model for check in checks)
    return tuple(
        Hop(name=name, top1=first_of[model].top1, samples=first_of[model].samples)
        for name, model in zip(names, models, strict=False)
    )


def gates_of(
    checks: Sequence[Check],
    loads: Sequence[LoadResult],
    p99_ms: float | None,
    manifest_problems: Sequence[str] | None,
) -> tuple[Gate, ...]:
    """Return every promise of this stage and whether it was kept."""
    gates = [equality_gate(checks)] if checks else []
    if loads:
        gates.append(error_gate(loads))
        if p99_ms is not None:
            gates.append(latency_gate(loads[0], p99_ms))
    if manifest_problems is not None:
        gates.append(manifest_gate(manifest_problems))
    return tuple(gates)


def equality_gate(checks: Sequence[Check]) -> Gate:
    """Return the gate that the server answers as the offline model does."""
    wrong = [check for check in checks if not check.equal]
    answers = sum(check.samples for check in checks)
    differing = sum(check.differing for check in checks)
    message = f"{answers:,} answers compared with the offline ones, {differing:,} of another class"
    if wrong:
        first = wrong[0]
        message += (
            f"; {first.model} over {first.protocol} at batch {first.batch} is off by up to "
            f"{first.max_difference:.3g} where {first.tolerance:.3g} is allowed (rows "
            f"{first.first_differing}). Serve another variant, or export again"
        )
    return Gate(
        name="served equals offline",
        passed=not wrong,
        value=float(sum(not check.equal for check in checks)),
        limit=0.0,
        unit="checks",
        message=message + ".",
    )


def error_gate(loads: Sequence[LoadResult]) -> Gate:
    """Return the gate that no request failed under load."""
    errors = sum(result.errors for result in loads)
    answered = sum(result.answered for result in loads)
    return Gate(
        name="no errors under load",
        passed=errors == 0 and answered > 0,
        value=float(errors),
        limit=0.0,
        unit="requests",
        message=f"{answered:,} requests were answered under load and {errors:,} were not.",
    )


def latency_gate(result: LoadResult, limit_ms: float) -> Gate:
    """Return the gate on the tail latency at the lowest concurrency."""
    p99 = result.percentile(99)
    passed = p99 <= limit_ms
    mend = "" if passed else " Use a smaller model or int8, more cores, or raise slo.p99_ms."
    return Gate(
        name="slo p99",
        passed=passed,
        value=p99,
        limit=limit_ms,
        unit="ms",
        message=f"p99 over {result.answered:,} requests at concurrency {result.concurrency}, one "
        f"sample each, is {p99:.2f} ms and may be {limit_ms:g} ms.{mend}",
    )


def manifest_gate(problems: Sequence[str]) -> Gate:
    """Return the gate that the Kubernetes manifests keep to the official schemas."""
    found = "; ".join(problems)
    return Gate(
        name="manifests valid",
        passed=not problems,
        value=float(len(problems)),
        limit=0.0,
        unit="problems",
        message=f"the schemas object: {found}." if problems else "Manifests keep to the schemas.",
    )
