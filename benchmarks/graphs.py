"""Graphs: a network with random weights in every precision, made by the export stage itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.loaders.ours import array_spec
from benchmarks.networks import CLASSES, MEAN, Network
from benchmarks.photos import small_images
from pipeline.artifacts import DataSpec, ModuleRef, TensorSpec, TrainedModel
from pipeline.context import Context
from stages.export.backends import Precision
from stages.export.config import CalibrationConfig, ExportConfig
from stages.export.forge import Forge
from stages.train.models.classifier import ImageClassifier
from stages.train.models.factory import FACTORY

_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Graphs:
    """A network, its graphs for ONNX Runtime on the CPU, and images to ask them."""

    module: ImageClassifier
    spec: DataSpec
    trained: TrainedModel
    paths: dict[Precision, Path]
    images: NDArray[np.uint8]  # (N, H, W, C)


def make_graphs(
    folder: Path, network: Network, precisions: Sequence[Precision], num_images: int
) -> Graphs:
    """Export a network in each precision below `folder`."""
    images = small_images(0, num_images, network.size, len(MEAN))
    spec = array_spec(folder, images, _BATCH)
    module = network.build()
    _warm_statistics(module, images)
    save_file(module.state_dict(), folder / "model.safetensors")
    trained = TrainedModel(
        module=ModuleRef(factory=FACTORY, arguments=network.arguments),
        weights=folder / "model.safetensors",
        input=spec.input,
        output=TensorSpec(name="logits", dtype="float32", shape=(-1, CLASSES)),
        classes=tuple(f"class_{label}" for label in range(CLASSES)),
        precision="fp32",
        predictions=None,
    )
    calibration = CalibrationConfig(method="minmax", batch_size=_BATCH)
    config = ExportConfig(precisions=tuple(precisions), calibration=calibration)
    forge = Forge(config=config, spec=spec, trained=trained, images=images, ctx=Context(dir=folder))
    return Graphs(
        module=module.eval(),
        spec=spec,
        trained=trained,
        paths={precision: forge.graph(precision, "u8s8") for precision in precisions},
        images=images,
    )


def _warm_statistics(module: ImageClassifier, images: NDArray[np.uint8]) -> None:
    """Let batch norm see images: activations of a fresh network would not be normalized at all."""
    module.train()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # the plain mean over what it sees
        module(torch.from_numpy(images))
    module.eval()
