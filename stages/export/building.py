"""Building: every precision for every backend; one that fails is recorded, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from pipeline.artifacts import DataSpec, Variant
from pipeline.backend import Backend, named
from pipeline.context import Context
from pipeline.errors import BackendUnavailable, StageFailed
from pipeline.graph_forms import operators_beside
from stages.export.backends import (
    BatchProfile,
    ExportBackend,
    LengthProfile,
    Precision,
    Session,
)
from stages.export.config import ExportConfig
from stages.export.forge import Forge
from stages.export.graph import size_bytes


def profile_of(config: ExportConfig, spec: DataSpec) -> BatchProfile:
    """Return the batch sizes, and the lengths of texts, that engines are built for."""
    length = None
    if (tokens := spec.tokens) is not None:
        usual = max(1, tokens.length // 2)
        length = LengthProfile(min=1, opt=usual, max=tokens.length, padding=tokens.padding)
    batch = config.batch
    return BatchProfile(min=batch.min, opt=batch.opt, max=batch.max, length=length)


def implementation(backend: Backend) -> ExportBackend:
    """Import the module of a backend."""
    return cast(ExportBackend, backend.load())


def build_all(
    forge: Forge, backends: Sequence[Backend], config: ExportConfig, ctx: Context
) -> list[Variant]:
    """Build every precision for every backend; one that fails is recorded and the others go on."""
    # The FP32 graph is what all others are made from: without it there is nothing to go on with.
    source = forge.graph("fp32", "u8s8")
    variants: list[Variant] = []
    for backend in backends:
        for precision in config.precisions:
            ctx.stop.check()
            name = f"{backend.name}-{precision}{forge.suffix}"
            try:
                variants.append(_build(forge, name, backend, precision, config, ctx))
            except (StageFailed, BackendUnavailable) as error:
                ctx.events.warning(f"{name} was not built: {error}")
                variants.append(_failed(forge, name, backend, precision, source, str(error)))
    return variants


def _build(
    forge: Forge,
    name: str,
    backend: Backend,
    precision: Precision,
    config: ExportConfig,
    ctx: Context,
) -> Variant:
    maker = implementation(backend)
    folder = ctx.dir / name
    folder.mkdir(parents=True, exist_ok=True)
    operators = getattr(maker, "LOADS_OPERATORS", False)
    graph = forge.graph(precision, maker.INT8_FORM, operators=operators)
    ctx.events.info(f"building {name}")
    built = maker.build(
        graph,
        precision,
        profile_of(config, forge.spec),
        folder,
        ctx,
        timeout_s=config.build_timeout_s,
    )
    return Variant(
        name=name,
        backend=backend.name,
        precision=precision,
        format=built.format,
        path=built.path,
        input=forge.trained.input,
        output=forge.trained.output,
        size_bytes=size_bytes(built.path),
        runs_here=built.runs_here,
        proof=built.proof,
        manifest=built.manifest,
        operators=operators_beside(built.path),
        dense=forge.dense,
        note=built.note,
    )


def _failed(
    forge: Forge, name: str, backend: Backend, precision: Precision, source: Path, reason: str
) -> Variant:
    """Record a variant that does not exist: no bytes, and the path of what it is made from."""
    return Variant(
        name=name,
        backend=backend.name,
        precision=precision,
        format="onnx",
        path=source,
        input=forge.trained.input,
        output=forge.trained.output,
        size_bytes=0,
        runs_here=False,
        dense=forge.dense,
        accepted=False,
        note=reason,
    )


@contextmanager
def sessions(
    variants: Sequence[Variant], backends: Sequence[Backend], config: ExportConfig, ctx: Context
) -> Iterator[Mapping[str, Session]]:
    """Open every variant; all are closed in the end."""
    opened: dict[str, Session] = {}
    try:
        for variant in variants:
            maker = implementation(named(backends, variant.backend, where="export"))
            opened[variant.name] = maker.open_session(
                variant.path, ctx.device, threads=config.latency.threads
            )
        yield opened
    finally:
        for session in opened.values():
            session.close()
