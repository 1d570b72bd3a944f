"""Quantize: one set of ranges becomes an explicit Q/DQ graph, in the form a backend likes.

    u8s8   for CPUs: unsigned activations; what stands between convolutions is quantized too
    s8s8   for TensorRT: signed and symmetric; only the inputs of products, and no biases

Calibration is paid for once; each form is one more pass over the graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from stages.export.graph import PRODUCTS, head_nodes

Form = Literal["u8s8", "s8s8"]
Range = tuple[float, float]
"""The lowest and the highest value of a tensor that still has an integer of its own."""

BETWEEN_CONVOLUTIONS = (
    "Add", "Relu", "LeakyRelu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat",
)  # fmt: skip
"""What has an integer kernel and loses little: with these, convolutions hand on INT8."""

QUANTIZED_OPS = (*PRODUCTS, *BETWEEN_CONVOLUTIONS)
"""Every operator whose tensors need a range."""


def quantize(
    graph_path: Path,
    ranges: Mapping[str, Range],
    form: Form,
    *,
    reduce_range: bool = False,
) -> ModelProto:
    """Return the graph with QuantizeLinear and DequantizeLinear where `form` wants them.

    Args:
        graph_path: the FP32 graph.
        ranges: by tensor name, as calibration left them.
        form: who will run it.
        reduce_range: keep weights to 7 bits, for CPUs whose 8-bit products saturate at 16 bits.
    """
    model = load_model_with_shape_infer(graph_path)
    symmetric = form == "s8s8"
    nodes = products(model) if symmetric else [*products(model), *convolutional_nodes(model)]
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range=_tensors(ranges),
        nodes_to_quantize=nodes,
        nodes_to_exclude=head_nodes(model),
        op_types_to_quantize=PRODUCTS if symmetric else QUANTIZED_OPS,
        extra_options={
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            # TensorRT takes no INT32 into DequantizeLinear, so biases stay as they are there.
            "QuantizeBias": not symmetric,
            # ONNX Runtime's integer convolution needs quantized outputs; its integer matrix product
            # has a form with floating-point outputs, which keeps a transformer's residual stream.
            "OpTypesToExcludeOutputQuantization": PRODUCTS if symmetric else ("MatMul", "Gemm"),
        },
    )
    with _quiet():
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    return quantized


def products(model: ModelProto) -> list[str]:
    """Return the names of all convolutions and matrix products."""
    return [node.name for node in model.graph.node if node.op_type in PRODUCTS]


def convolutional_nodes(model: ModelProto) -> list[str]:
    """Return the additions, activations and poolings that only convolutions feed.

    Transformers have the same operators on their residual stream; rounding those to 8 bits ruins
    the network (a ViT: 11 dB of signal over noise, 32 dB without) and makes it no faster.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    convolutional: set[str] = set()
    names: list[str] = []
    for node in model.graph.node:
        activations = [name for name in node.input if name and name not in constants]
        if node.op_type in ("Conv", "ConvTranspose"):
            convolutional.update(node.output)
        elif node.op_type in BETWEEN_CONVOLUTIONS and convolutional.issuperset(activations):
            convolutional.update(node.output)
            names.append(node.name)
    return names


def _tensors(ranges: Mapping[str, Range]) -> TensorsData:
    # The quantizer only reads lowest and highest of a MinMax table, whichever method found them.
    return TensorsData(
        CalibrationMethod.MinMax,
        {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges.items()
        },
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's remarks on the root logger (one a rank-1 weight) from the user."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
