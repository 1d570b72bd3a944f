"""Backend ``tensorrt``: engines built and run on this machine's GPU, whichever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.context import Context
from pipeline.device import Device
from stages.export.backends import BatchProfile, Built, Precision, Session
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
    timeout_s: float = TIMEOUT_S,
) -> Built:
    """Build an engine for the GPU at hand in a child process and prove its precision.

    Args:
        onnx_path: The graph.
        precision: What the graph was made as.
        profile: The batch sizes to build for.
        folder: Where the engine, its manifest and its layer table go.
        ctx: The stage's context.
        timeout_s: How long the build may take.

    Raises:
        BuildFailed: no engine, or not in that precision.
    """
    return compile_graph(
        "tensorrt", onnx_path, precision, profile, folder, ctx, timeout_s=timeout_s
    )


def open_session(path: Path, device: Device, *, threads: int = 0) -> Session:
    """Check the manifest and load the engine; `threads` is for backends that compute on the CPU."""
    del threads
    return open_engine(path, device)
