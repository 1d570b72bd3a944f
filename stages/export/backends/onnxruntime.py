"""ONNX Runtime: runs a graph as it is, on the CPU or on CUDA."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import onnx
import onnxruntime

from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import StageFailed
from pipeline.graph_forms import OPERATORS_FILE, operators_beside
from stages.export.arrays import Images, Logits
from stages.export.backends import BatchProfile, Built, Precision
from stages.export.failure import ORT_ERRORS, first_line
from stages.export.graph import count_products

INT8_FORM: Literal["u8s8", "s8s8"] = "u8s8"
LOADS_OPERATORS = True

_INTEGER_KERNELS = (
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "QAttention",
)  # fmt: skip
_OWN_DOMAINS = ("ai.onnx", "com.microsoft", "com.ms")
_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}


class OrtSession:
    """A graph loaded by ONNX Runtime; one input, one output."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._input = session.get_inputs()[0].name

    def __call__(self, images: Images) -> Logits:
        """Return logits (N, classes) for images (N, H, W, C), or for texts as tokens (N, L)."""
        assert self._session is not None, "the session was closed"
        logits: Logits = self._session.run(None, {self._input: images})[0]
        return logits

    def close(self) -> None:
        """Free threads and memory."""
        self._session = None


def build(
    onnx_path: Path,
    precision: Precision,
    profile: BatchProfile,
    folder: Path,
    ctx: Context,
    *,
    timeout_s: float,
) -> Built:
    """Take the graph as it is, and prove its precision from ONNX Runtime's own optimized graph.

    Nothing is compiled ahead of loading, so neither the profile nor the timeout has a bearing.

    Raises:
        StageFailed: ONNX Runtime cannot load it, or an INT8 graph has no integer kernel in the end.
    """
    proof = count_executed(onnx_path)
    if precision == "int8" and not proof.get("int8"):
        raise StageFailed(
            "export: ONNX Runtime runs no convolution or matrix product of the INT8 graph in "
            f"INT8 ({proof}). The model has none that can be quantized; leave int8 out of "
            "precisions."
        )
    note = ""
    if precision == "fp16" and not proof.get("fp16") and not ctx.device.is_cuda:
        note = "computed in FP32 between casts: ONNX Runtime has no FP16 kernels for this CPU"
    if ctx.device.is_cuda and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        note = "ran on the CPU: this onnxruntime has no CUDA provider; install onnxruntime-gpu"
    return Built(path=onnx_path, format="onnx", runs_here=True, proof=proof, note=note)


def open_session(path: Path, device: Device, *, threads: int = 0) -> OrtSession:
    """Load a graph, with the library of operators that lies beside it if there is one.

    Raises:
        StageFailed: the file is no graph that ONNX Runtime can run.
    """
    try:
        session = onnxruntime.InferenceSession(
            str(path), _options(path, threads), providers=_providers(device)
        )
    except ORT_ERRORS as error:
        raise StageFailed(_cannot_run(path, error)) from error
    return OrtSession(session)


def count_executed(path: Path) -> dict[str, int]:
    """Count convolutions and matrix products by the type they have after ONNX Runtime's fusions.

    Operators from a library count as ``custom``.

    Raises:
        StageFailed: the file is no graph that ONNX Runtime can run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        optimized = Path(scratch) / "optimized.onnx"
        try:
            options = _options(path, threads=1)
            # One level below the highest: layouts private to a CPU hide operators by other names.
            options.graph_optimization_level = (
                onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            )
            options.optimized_model_filepath = str(optimized)
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except ORT_ERRORS as error:
            raise StageFailed(_cannot_run(path, error)) from error
        model = onnx.load(optimized)
    custom = sum(
        bool(node.domain) and not node.domain.startswith(_OWN_DOMAINS) for node in model.graph.node
    )
    integer = sum(node.op_type in _INTEGER_KERNELS for node in model.graph.node)
    # A float product that is still fed by DequantizeLinear was not fused: its arithmetic is FP32.
    for node in model.graph.node:
        node.op_type = _FUSED.get(node.op_type, node.op_type)
    counts = count_products(model)
    unfused = counts.pop("int8", 0)
    if unfused:
        counts["fp32"] = counts.get("fp32", 0) + unfused
    found = {"int8": integer, "custom": custom}
    return {kind: count for kind, count in found.items() if count} | counts


def _options(graph: Path, threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    library = operators_beside(graph)
    if library is not None:
        options.register_custom_ops_library(str(library))
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads that spin double the latency wherever something else needs the cores too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(device: Device) -> list[str | tuple[str, dict[str, int]]]:
    cuda = device.is_cuda and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    first: list[str | tuple[str, dict[str, int]]] = (
        [("CUDAExecutionProvider", {"device_id": device.index})] if cuda else []
    )
    return [*first, "CPUExecutionProvider"]


def _cannot_run(path: Path, error: Exception) -> str:
    mend = "install a newer onnxruntime"
    if "not a registered function" in str(error) and operators_beside(path) is None:
        mend = f"put the library of its operators beside it, as {OPERATORS_FILE}"
    return (
        f"export: ONNX Runtime cannot run {path.name}: {first_line(error)} Run the export stage "
        f"again, or {mend}."
    )
