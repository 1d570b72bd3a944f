"""The deploy stage's chapter of the report."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.artifacts import Gate
from pipeline.report.blocks import (
    BarChart,
    Block,
    Code,
    Facts,
    LineChart,
    Note,
    Section,
    Series,
    Table,
)
from stages.deploy.delivery import Delivery
from stages.deploy.load import LoadResult
from stages.deploy.pbtxt import CONFIG_FILE
from stages.deploy.plan import NEEDS_TOKENIZERS
from stages.deploy.usage import curl_example, python_example
from stages.deploy.verify import Check

_CURVE_SHARES = (0, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9, 100)


def section(delivery: Delivery, gates: Sequence[Gate]) -> Section:
    """Return the chapter: what is served, that it answers rightly, how fast, and how to ask it."""
    blocks: list[Block] = [_facts(delivery)]
    blocks += [Note(text=gate.message, level="good" if gate.passed else "bad") for gate in gates]
    if delivery.checks:
        blocks.append(_verification(delivery.checks))
    if delivery.loads:
        blocks += _load_blocks(delivery.loads)
    blocks += _manifest_notes(delivery)
    blocks += _files(delivery)
    return Section(title="Deployment", blocks=tuple(blocks), summary=_summary(delivery))


def _summary(delivery: Delivery) -> str:
    plan = delivery.plan
    if delivery.endpoints is None:
        return f"A model repository of {plan.variant.name}; the backend 'files' starts no server."
    return f"{plan.variant.name} answered on a real Triton server ({delivery.backend})."


def _facts(delivery: Delivery) -> Facts:
    plan, ends = delivery.plan, delivery.endpoints
    pipeline = (
        plan.pipeline_name if plan.preprocess else "not built: the data set leaves no preprocessing"
    )
    where = "GPU" if plan.device.is_cuda and plan.runtime == "native" else "CPU"
    instances = f"{plan.instances} on the {where}, threads each: {plan.threads}"
    delay = f"dynamic, held back {plan.max_queue_delay_us} µs"
    items = [
        ("backend", delivery.backend),
        ("variant", f"{plan.variant.name} ({plan.variant.precision})"),
        ("tensor model", plan.name),
        (f"{plan.kind} pipeline", pipeline),
        ("instances", instances),
        ("batching", f"{delay if plan.batching else 'off'}, up to {plan.max_batch} samples"),
    ]
    if ends is not None:
        items += [
            ("verified at", f"http://{ends.http} and grpc://{ends.grpc}"),
            ("start to first right answer", f"{delivery.started_in_s:.1f} s"),
        ]
    return Facts(title="Service", items=tuple(items))


def _verification(checks: Sequence[Check]) -> Table:
    return Table(
        title="Verification through the server",
        columns=(
            "model", "over", "batch", "samples", "served %", "offline %", "differ", "bit-equal",
            "largest Δ", "allowed Δ", "equal",
        ),
        rows=tuple(
            (
                check.model, check.protocol, check.batch, check.samples,
                round(100 * check.top1, 3), round(100 * check.offline_top1, 3), check.differing,
                check.bit_equal, f"{check.max_difference:.2g}", f"{check.tolerance:.2g}",
                check.equal,
            )
            for check in checks
        ),
        caption="Top-1 served and offline. Each sample of the eval split is sent over the wire, "
        "and its figures (logits, or the scores of the image pipeline) are compared with those "
        "computed without a server. Another batch size or thread count may round differently: "
        "hence what is allowed.",
    )  # fmt: skip


def _load_blocks(loads: Sequence[LoadResult]) -> list[Block]:
    at = tuple(float(result.concurrency) for result in loads)
    quantiles = tuple(
        Series(name=f"p{share}", x=at, y=tuple(result.percentile(share) for result in loads))
        for share in (50, 95, 99)
    )
    curves = tuple(
        Series(
            name=f"{result.concurrency} in flight",
            x=tuple(float(share) for share in _CURVE_SHARES),
            y=tuple(result.percentile(share) for share in _CURVE_SHARES),
        )
        for result in loads
        if result.answered
    )
    rows = tuple(
        (
            result.concurrency, result.answered, result.errors, round(result.throughput, 1),
            *(round(result.percentile(share), 3) for share in (50, 95, 99)),
        )
        for result in loads
        if result.answered
    )  # fmt: skip
    caption = "One sample a request; the clients run on the same machine as the server."
    return [
        Table(
            title="Load",
            columns=("in flight", "answered", "errors", "requests/s", "p50 ms", "p95 ms", "p99 ms"),
            rows=rows,
            caption=caption,
        ),
        LineChart(
            title="Latency by requests in flight",
            x_label="requests in flight",
            y_label="ms",
            series=quantiles if len(rows) == len(loads) else (),
            caption=caption,
        ),
        LineChart(
            title="Distribution of latency",
            x_label="percent of requests",
            y_label="answered within, ms",
            series=curves,
            log_y=True,
        ),
        BarChart(
            title="Throughput",
            names=tuple(f"{result.concurrency} in flight" for result in loads),
            values=tuple(result.throughput for result in loads),
            unit="/s",
        ),
    ]


def _manifest_notes(delivery: Delivery) -> list[Block]:
    cluster = delivery.cluster
    if not cluster.manifests:
        return []
    text = f"Kubernetes manifests: {', '.join(path.name for path in cluster.manifests)}."
    if cluster.repository is not None:
        text += (
            f" Their container takes the models from the folder {cluster.repository.name} "
            "(Triton's own backends), which this machine cannot run and has not verified."
        )
    if delivery.plan.tokens is not None:
        text += f" {NEEDS_TOKENIZERS}"
    return [Note(text=text)]


def _files(delivery: Delivery) -> list[Block]:
    """Return what a person copies: how to ask the server, and every model's configuration."""
    blocks: list[Block] = [
        Code(title="Ask it from Python", text=python_example(delivery.plan), language="python"),
        Code(title="Ask it with curl", text=curl_example(delivery.plan), language="bash"),
    ]
    for path in sorted(delivery.repository.glob(f"*/{CONFIG_FILE}")):
        blocks.append(
            Code(
                title=f"{path.parent.name}/{CONFIG_FILE}",
                text=path.read_text(encoding="utf-8"),
                language="protobuf",
                folded=True,
            )
        )
    return blocks
