"""A backend of your own for the export stage: OpenVINO runs the same graphs.

    pip install openvino
    dlpipe run examples/add_a_backend/config.yaml

A backend is a record (what it needs, where its module is) and a module with the functions that the
stage's protocol names: here `INT8_FORM`, `build` and `open_session` of
``stages.export.backends.ExportBackend``. In this file the record and the module are one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Backend
from pipeline.context import Context
from pipeline.device import Device
from stages.export.backends import BatchProfile, Built, Precision

BACKEND = Backend(
    name="openvino_backend:BACKEND",
    module="openvino_backend",
    summary="OpenVINO on the CPU",
    needs=("openvino",),
    device="cpu",
)

INT8_FORM: Literal["u8s8", "s8s8"] = "s8s8"
"""OpenVINO runs the signed form, which TensorRT takes too, as fast as the unsigned one."""


EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""What is not INT8 stays FP32; left alone, OpenVINO takes bf16 where the processor has it."""

NAMES = {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16"}


class OpenVinoSession:
    """A compiled model; one input, one output."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self._model = openvino.Core().compile_model(str(path), "CPU", EXACT | settings)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for uint8 images (N, H, W, C)."""
        logits: NDArray[np.float32] = self._model(images)[0]
        return logits

    def close(self) -> None:
        """Free it."""
        del self._model


def build(
    onnx_path: Path,
    precision: Precision,
    profile: BatchProfile,
    folder: Path,
    ctx: Context,
    *,
    timeout_s: float,
) -> Built:
    """Take the graph as it is; read the types of convolutions from the compiled model as proof."""
    import openvino

    compiled = openvino.Core().compile_model(str(onnx_path), "CPU", EXACT)
    proof: dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in {"Convolution", "FullyConnected", "MatMul"}:
            precision_run = info["runtimePrecision"].astype(str)
            kind = NAMES.get(precision_run, precision_run)
            proof[kind] = proof.get(kind, 0) + 1
    return Built(path=onnx_path, format="onnx", runs_here=True, proof=proof)


def open_session(path: Path, device: Device, *, threads: int = 0) -> OpenVinoSession:
    """Compile the model for this processor."""
    return OpenVinoSession(path, threads)
