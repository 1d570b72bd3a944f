"""Backend ``tensorrt-rtx``: engines for RTX GPUs, built with or without a GPU, run on one.

Without a GPU the engine is built for every generation in `architecture.PORTABLE` at once; with one,
for that GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.context import Context
from pipeline.device import Device
from stages.export.backends import BatchProfile, Built, Precision, Session
from stages.export.engine.architecture import CURRENT, PORTABLE
from stages.export.engine.build import TIMEOUT_S
from stages.export.engine.compiler import compile_graph
from stages.export.engine.session import open_engine

INT8_FORM: Literal["u8s8", "s8s8"] = "s8s8"


def build(
    onnx_path: Path,
    precision: Precision,
    profile: BatchProfile,
    folder: Path,
    ctx: Context,
    *,
    architectures: tuple[str, ...] = (),
    timeout_s: float = TIMEOUT_S,
) -> Built:
    """Build an engine in a child process and prove its precision.

    Args:
        onnx_path: The graph.
        precision: What the graph was made as.
        profile: The batch sizes to build for.
        folder: Where the engine, its manifest and its layer table go.
        ctx: The stage's context.
        architectures: GPU generations to build for; by default the GPU at hand, or the portable
        ones.
        timeout_s: How long the build may take.

    Raises:
        BuildFailed: no engine, or not in that precision.
    """
    targets = architectures or ((CURRENT,) if ctx.device.is_cuda else PORTABLE)
    return compile_graph(
        "tensorrt_rtx", onnx_path, precision, profile, folder, ctx,
        targets=targets, timeout_s=timeout_s,
    )  # fmt: skip


def open_session(path: Path, device: Device, *, threads: int = 0) -> Session:
    """Check the manifest and load the engine; `threads` is for backends that compute on the CPU."""
    del threads
    return open_engine(path, device)
