"""Delivery: plan, publish, start, verify, measure. The work behind `Deploy.run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.artifacts import DataSpec, Deployment, ExportedModel
from pipeline.context import Context
from pipeline.errors import DataError
from stages.augment.loader import join_batches
from stages.deploy.backends import DeployBackend
from stages.deploy.canary import Canary, tolerance_for
from stages.deploy.cluster import ClusterFiles, write_cluster_files
from stages.deploy.config import DeployConfig
from stages.deploy.gates import gates_of, served_hops
from stages.deploy.load import LoadResult, Request, measure
from stages.deploy.offline import OnnxModel
from stages.deploy.plan import NEEDS_TOKENIZERS, ServingPlan, make_plan
from stages.deploy.ports import Endpoints
from stages.deploy.repository import write_repository
from stages.deploy.running import running_server
from stages.deploy.samples import EncodedFiles, Originals, Samples, originals, read_samples
from stages.deploy.server import Server
from stages.deploy.verify import Check, verify_pipeline, verify_tensors

REPOSITORY = "repository"
LOG_FILE = "server.log"
_CANARY_SAMPLES = 4


@dataclass(kw_only=True)
class Delivery:
    """What was found out while the model was delivered."""

    plan: ServingPlan
    backend: str
    repository: Path
    endpoints: Endpoints | None = None
    started_in_s: float = 0.0
    checks: list[Check] = field(default_factory=list)
    loads: list[LoadResult] = field(default_factory=list)
    cluster: ClusterFiles = field(default_factory=ClusterFiles)


def deliver(ctx: Context, config: DeployConfig, backend: DeployBackend, name: str) -> Delivery:
    """Write the repository, and prove it through a running server where the backend starts one."""
    spec, exported = ctx.get(DataSpec), ctx.get(ExportedModel)
    plan = make_plan(config, backend.RUNTIME, spec, exported, ctx.device)
    if config.variant == "auto" and plan.variant.name != exported.chosen:
        ctx.events.warning(
            f"variant {exported.chosen} was chosen by the export stage and cannot be loaded by "
            f"{name}; {plan.variant.name} is served instead. Name one in stages.deploy.variant."
        )
    asked = originals(spec) if plan.preprocess is not None else None
    repository = ctx.dir / REPOSITORY
    canary = make_canary(ctx, plan, spec)
    warmup_image = asked[0] if isinstance(asked, EncodedFiles) else None
    write_repository(repository, plan, canary, warmup_image)
    ctx.events.info(f"repository of {plan.name} written, variant {plan.variant.name}")
    delivery = Delivery(plan=plan, backend=name, repository=repository)
    if plan.tokens is not None and backend.RUNTIME == "native":
        ctx.events.info(NEEDS_TOKENIZERS)
    with running_server(
        backend,
        repository,
        plan.name,
        ports=config.ports,
        image=config.image,
        on_gpu=ctx.device.is_cuda,
        log_path=ctx.dir / LOG_FILE,
        start_timeout_s=config.start_timeout_s,
        stop=ctx.stop,
    ) as server:
        if server is None:
            ctx.events.warning(
                f"backend {name} starts no server, so nothing was verified: 'verify', 'load' and "
                "'slo' have no effect. Install 'dlpipe[triton]' and use backend: triton-embedded."
            )
        else:
            prove(ctx, config, delivery, server, spec, asked)
    if config.kubernetes is not None:
        delivery.cluster = write_cluster_files(
            ctx, config.kubernetes, config.slo.p99_ms, plan, canary, warmup_image
        )
    return delivery


def make_canary(ctx: Context, plan: ServingPlan, spec: DataSpec) -> Canary | None:
    """Return a few samples with the exported graph's own answers; None if they cannot be known."""
    variant = plan.variant
    if variant.format != "onnx" and variant.predictions is None:
        return None
    wanted = min(_CANARY_SAMPLES, plan.max_batch)
    parts = list(read_samples(spec, variant, wanted, ctx.stop))
    if not parts:
        raise DataError(
            f"{spec.name}: the eval split is empty, so nothing can be verified. Check the data set."
        )
    images = join_batches([part.images for part in parts], spec)
    logits = (
        OnnxModel(variant.path)(images)
        if variant.format == "onnx"
        else np.concatenate([part.logits for part in parts])
    )
    return Canary(images=images, logits=logits, tolerance=tolerance_for(variant.precision, logits))


def prove(
    ctx: Context,
    config: DeployConfig,
    delivery: Delivery,
    server: Server,
    spec: DataSpec,
    asked: Originals | None,
) -> None:
    """Verify the answers of a running server, and measure how fast they come."""
    plan, ends = delivery.plan, server.endpoints
    delivery.endpoints = ends
    delivery.started_in_s = server.started_in_s
    ctx.events.info(
        f"server ready in {server.started_in_s:.1f} s and its canary answered; "
        f"HTTP {ends.http}, gRPC {ends.grpc}"
    )
    if server.target.canary is None:
        ctx.events.warning(
            f"{plan.variant.name} has no known answers: the server is ready and unverified"
        )
        return
    read = partial(read_samples, spec, plan.variant, config.verify.samples, ctx.stop)
    total = spec.splits["eval"].samples
    wanted = total if config.verify.samples == "all" else min(config.verify.samples, total)
    delivery.checks += verify_tensors(ctx, plan, ends, config.verify.protocols, read(), wanted)
    if asked is not None:
        delivery.checks += verify_pipeline(
            ctx, plan, ends, config.verify.protocols, read(), asked, wanted
        )
    for check in delivery.checks:
        ctx.events.emit(
            "served", model=check.model, protocol=check.protocol, batch=check.batch,
            samples=check.samples, top1=check.top1, differing=check.differing,
            bit_equal=check.bit_equal, max_difference=float(check.max_difference),
        )  # fmt: skip
    if config.load.enabled:
        delivery.loads += put_under_load(ctx, config, plan, server, read())


def put_under_load(
    ctx: Context,
    config: DeployConfig,
    plan: ServingPlan,
    server: Server,
    samples: Iterator[Samples],
) -> Iterator[LoadResult]:
    """Measure with one real image a request, at each number of requests in flight."""
    request = Request(
        model=plan.name,
        input=plan.variant.input.name,
        output=plan.variant.output.name,
        tensor=next(samples).images[:1],
    )
    with ctx.events.progress("load", len(config.load.concurrency), "window") as bar:
        for concurrency in config.load.concurrency:
            result = measure(
                server.endpoints,
                config.load.protocol,
                request,
                concurrency=concurrency,
                seconds=config.load.seconds,
                stop=ctx.stop,
            )
            p50, p99 = result.percentile(50), result.percentile(99)
            ctx.events.emit(
                "load", concurrency=concurrency, requests=result.answered, errors=result.errors,
                p50_ms=p50, p95_ms=result.percentile(95), p99_ms=p99,
                throughput=result.throughput,
            )  # fmt: skip
            bar.advance(1, note=f"c={concurrency} p99 {p99:.2f} ms {result.throughput:,.0f}/s")
            yield result


def deployment(delivery: Delivery, config: DeployConfig) -> Deployment:
    """Return the artifact that describes what was delivered."""
    plan = delivery.plan
    metrics = {"start_s": delivery.started_in_s} if delivery.endpoints else {}
    for result in delivery.loads:
        for share in (50, 95, 99):
            metrics[f"p{share}_ms_c{result.concurrency}"] = result.percentile(share)
        metrics[f"throughput_c{result.concurrency}"] = result.throughput
    return Deployment(
        backend=delivery.backend,
        repository=delivery.repository,
        model=plan.name,
        pipeline=plan.pipeline_name if plan.preprocess is not None else "",
        variant=plan.variant.name,
        classes=plan.classes,
        manifests=delivery.cluster.manifests,
        metrics=metrics,
        gates=gates_of(
            delivery.checks, delivery.loads, config.slo.p99_ms, delivery.cluster.problems
        ),
        hops=served_hops(delivery.checks),
    )
