"""Graphs to build engines of: a small convolution net and a ResNet-18, each in three precisions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from pipeline.context import Context

Graphs = Mapping[str, Path]
PRODUCTS = ["Conv", "MatMul", "Gemm"]


class Normalized(torch.nn.Module):
    """A net behind the chain's input: uint8 NHWC, cast to float first, normalized inside."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float().permute(0, 3, 1, 2)
        return self.net((pixels / 255 - 0.5) / 0.25)


@dataclass
class Pixels(CalibrationDataReader):
    """Two batches of random images."""

    size: int
    batches: Iterator[dict[str, NDArray[np.uint8]]] = field(init=False)

    def __post_init__(self) -> None:
        shape, random = (4, self.size, self.size, 3), np.random.default_rng(0)
        self.batches = iter(
            [{"images": random.integers(0, 256, shape, dtype=np.uint8)} for _ in range(2)]
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self.batches, None)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(dir=tmp_path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """A net of two convolutions and a linear layer on 8x8 pixels."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 5),
    )
    return make_graphs(net, 8, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=10)
    return make_graphs(net, 32, tmp_path_factory.mktemp("resnet18"))


def make_graphs(net: torch.nn.Module, size: int, folder: Path) -> Graphs:
    """Export a net and convert it: fp32, fp16 with fp32 output, int8 (s8s8) with fp16 around it."""
    paths = {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", "int8")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.zeros((2, size, size, 3), dtype=torch.uint8)
        program = torch.onnx.export(
            Normalized(net).eval(), (images,), dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["images"], output_names=["logits"],
        )  # fmt: skip
        assert program is not None
        program.save(str(paths["fp32"]), external_data=False)
        onnx.save(halved(onnx.load(paths["fp32"])), paths["fp16"])
        onnx.save(halved(quantized(paths["fp32"], size, QuantType.QInt8)), paths["int8"])
    return paths


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ONNXModel(convert_float_to_float16(model, keep_io_types=True))
    graph.topological_sort()
    return graph.model


def quantized(path: Path, size: int, activations: QuantType) -> onnx.ModelProto:
    """Put Q/DQ in front of every product; signed and symmetric is TensorRT's form."""
    symmetric = activations == QuantType.QInt8
    calibrator = create_calibrator(
        str(path), PRODUCTS, augmented_model_path=str(path.with_suffix(".augmented")),
        calibrate_method=CalibrationMethod.MinMax, extra_options={"symmetric": symmetric},
    )  # fmt: skip
    calibrator.collect_data(Pixels(size))
    options = {
        "ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": PRODUCTS,
    }  # fmt: skip
    quantizer = QDQQuantizer(
        onnx.load(path), True, False, QuantType.QInt8, activations,
        calibrator.compute_data(), [], [], PRODUCTS, options,
    )  # fmt: skip
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


@pytest.fixture(scope="session")
def u8s8(small: Graphs) -> Path:
    """The small net with unsigned activations: what CPUs like and TensorRT refuses."""
    path = small["fp32"].with_name("u8s8.onnx")
    onnx.save(quantized(small["fp32"], 8, QuantType.QUInt8), path)
    return path
