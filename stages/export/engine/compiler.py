"""compiler: from an ONNX graph to a proven engine with its manifest; for both TensorRT backends."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from pipeline.backend import is_installed
from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import BackendUnavailable
from pipeline.files import sha256_file, write_atomic
from stages.export.backends import BatchProfile, Built, Precision
from stages.export.engine.architecture import CURRENT, architecture
from stages.export.engine.build import TIMEOUT_S, BuildFailed, run_build
from stages.export.engine.manifest import (
    EngineUnusable,
    Manifest,
    check_content,
    manifest_path,
    save_manifest,
)
from stages.export.engine.products import graph_products, opset
from stages.export.engine.proof import expected_products, prove
from stages.export.engine.request import ApiModule, BuildRequest


def compile_graph(
    api: ApiModule,
    onnx_path: Path,
    precision: Precision,
    profile: BatchProfile,
    folder: Path,
    ctx: Context,
    *,
    targets: tuple[str, ...] = (),
    timeout_s: float = TIMEOUT_S,
) -> Built:
    """Build ``<graph>.engine``, prove its precision, and write its manifest and layer table.

    An engine that an interrupted run left is taken as it is when it was built from the same graph
    in the same way.

    Args:
        api: The package that builds.
        onnx_path: The graph; "images" with a dynamic batch axis.
        precision: What the graph was made as, and what the engine has to prove.
        profile: The batch sizes to build for.
        folder: Where the files go.
        ctx: For progress and the stop flag, and the device the engine is for.
        targets: Names of `ComputeCapability`; empty where the API builds for the GPU at hand.
        timeout_s: How long the build may take.

    Raises:
        BuildFailed: no engine, or not in that precision.
        BackendUnavailable: it is to be for the GPU at hand, and there is none.
        Interrupted: a stop was asked for.
    """
    if not 1 <= profile.min <= profile.opt <= profile.max:
        raise BuildFailed(
            f"export: the batch profile {profile.min}/{profile.opt}/{profile.max} cannot be built. "
            "Allowed: 1 <= min <= opt <= max."
        )
    engine = folder / f"{onnx_path.stem}.engine"
    architectures = _resolved(targets, ctx.device)
    request = BuildRequest(
        api=api,
        onnx=onnx_path,
        engine=engine,
        log=folder / f"{onnx_path.stem}.build.log",
        profile=profile,
        architectures=targets,
    )
    manifest = _left_over(request, precision, architectures)
    if manifest is None:
        manifest = _build(request, precision, architectures, profile, ctx, timeout_s)
    else:
        ctx.events.info(f"{engine.name}: unchanged since it was built, taken as it is")
    return _built(engine, manifest, ctx)


def _resolved(targets: tuple[str, ...], device: Device) -> tuple[str, ...]:
    """Return the architectures an engine will be for, the GPU at hand by its name."""
    if not device.is_cuda and (not targets or CURRENT in targets):
        raise BackendUnavailable(
            f"export: the engine is to be built for the GPU at hand, and the device is {device}. "
            "Use a machine with a CUDA device, or backend: tensorrt-rtx, which builds without one."
        )
    named = (architecture(device) if name == CURRENT else name for name in targets or (CURRENT,))
    return tuple(dict.fromkeys(named))


def _build(
    request: BuildRequest,
    precision: Precision,
    architectures: tuple[str, ...],
    profile: BatchProfile,
    ctx: Context,
    timeout_s: float,
) -> Manifest:
    """Build, prove and sign."""
    products = graph_products(request.onnx)
    expected_products(products, precision)
    finished = run_build(request, ctx, timeout_s=timeout_s)
    proof = prove(request.log, products, precision)
    write_atomic(
        request.engine.with_name(request.engine.name + ".layers.txt"), "\n".join(proof.rows)
    )
    request.log.unlink()
    manifest = Manifest(
        api=request.api,
        version=finished.version,
        architectures=architectures,
        precision=precision,
        opset=opset(request.onnx),
        profile=profile,
        inputs=finished.inputs,
        outputs=finished.outputs,
        source=request.onnx.name,
        source_sha256=sha256_file(request.onnx),
        engine_sha256=sha256_file(request.engine),
        build_s=round(finished.build_s, 3),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        proof=proof.counts,
    )
    save_manifest(manifest, request.engine)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(proof.counts.items()))
    ctx.events.info(
        f"{request.engine.name}: {finished.size_bytes / 1e6:.1f} MB in {finished.build_s:.1f} s; "
        f"convolutions and matrix products: {kinds}"
    )
    return manifest


def _left_over(
    request: BuildRequest, precision: Precision, architectures: tuple[str, ...]
) -> Manifest | None:
    """Return the manifest of an engine that is already there and is what would be built."""
    if not manifest_path(request.engine).exists():
        return None
    try:
        found = check_content(request.engine)
    except EngineUnusable:
        return None
    wanted = (
        request.api, str(import_module(request.api).__version__), architectures, precision,
        request.profile, sha256_file(request.onnx),
    )  # fmt: skip
    same = wanted == (
        found.api, found.version, found.architectures, found.precision,
        found.profile, found.source_sha256,
    )  # fmt: skip
    return found if same else None


def _built(engine: Path, manifest: Manifest, ctx: Context) -> Built:
    """Describe an engine to the stage."""
    why_not = ""
    if not ctx.device.is_cuda:
        why_not = f"runs on {', '.join(manifest.architectures)}; the device is {ctx.device}"
    elif not is_installed("pycuda"):
        why_not = "running it needs the package 'pycuda'; pip install 'dlpipe[gpu]'"
    return Built(
        path=engine,
        format="engine",
        runs_here=not why_not,
        proof=manifest.proof,
        manifest=manifest_path(engine),
        note=why_not,
    )
