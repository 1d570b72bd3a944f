"""Backends of the export stage: what turns an ONNX graph into something that runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pipeline.backend import Backend
from pipeline.context import Context
from pipeline.device import Device
from stages.export.arrays import Images, Logits

Precision = Literal["fp32", "fp16", "int8"]


def _providers() -> str:
    """Say on what ONNX Runtime can run here."""
    import onnxruntime

    return f"providers: {', '.join(onnxruntime.get_available_providers())}"


BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="tensorrt",
        module="stages.export.backends.tensorrt",
        summary="TensorRT engines, built and run on this machine's GPU",
        needs=("tensorrt", "pycuda"),
        extra="tensorrt,gpu",
        device="cuda",
    ),
    Backend(
        name="tensorrt-rtx",
        module="stages.export.backends.tensorrt_rtx",
        summary="TensorRT-RTX engines; builds without a GPU, runs on one",
        needs=("tensorrt_rtx",),
        extra="tensorrt-rtx",
    ),
    Backend(
        name="onnxruntime",
        module="stages.export.backends.onnxruntime",
        summary="ONNX Runtime on the CPU or on CUDA",
        needs=("onnxruntime",),
        details=_providers,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthProfile:
    """The lengths of texts an engine is built for."""

    min: int
    opt: int
    max: int
    padding: int
    """The token that shorter texts are filled up with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchProfile:
    """The batch sizes an engine is built for."""

    min: int = 1
    opt: int = 8
    max: int = 64
    length: LengthProfile | None = None
    """None for images, which are all of one size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What a backend made of a graph."""

    path: Path
    format: Literal["onnx", "engine"]
    runs_here: bool
    proof: dict[str, int] = field(default_factory=dict)
    """Convolutions and matrix products by type as built: ``{"int8": 21, "fp16": 2}``."""
    manifest: Path | None = None
    note: str = ""


class Session(Protocol):
    """A loaded artifact that answers."""

    def __call__(self, images: Images) -> Logits:
        """Return logits (N, classes) for images (N, H, W, C), or for texts as tokens (N, L)."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class ExportBackend(Protocol):
    """What each module under ``backends/`` offers, as plain functions of these names."""

    INT8_FORM: Literal["u8s8", "s8s8"]
    """The Q/DQ form it takes: unsigned/signed for CPUs, signed/signed for TensorRT.

    A module that loads a library of operators which lies beside a graph has ``LOADS_OPERATORS =
    True`` as well.
    """

    def build(
        self,
        onnx_path: Path,
        precision: Precision,
        profile: BatchProfile,
        folder: Path,
        ctx: Context,
        *,
        timeout_s: float,
    ) -> Built:
        """Turn an ONNX graph of that precision into what runs; writes into `folder`."""
        ...

    def open_session(self, path: Path, device: Device, *, threads: int = 0) -> Session:
        """Load what `build` made; checks the manifest beside an engine first."""
        ...
