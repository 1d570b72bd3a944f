"""Engines on a real GPU; test_runner.py does the same on the CPU, up to the call that executes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline.backend import is_installed
from pipeline.context import Context
from pipeline.device import CPU, Device, cuda_device_count
from pipeline.errors import BackendUnavailable
from stages.export.backends import BatchProfile
from stages.export.engine.architecture import CURRENT, PORTABLE
from stages.export.engine.compiler import compile_graph
from stages.export.engine.manifest import EngineUnusable, load_manifest
from stages.export.engine.request import Tensor
from stages.export.engine.runner import EngineRunner
from stages.export.engine.session import binding_of, open_engine

pytest.importorskip("tensorrt_rtx")

PROFILE = BatchProfile(min=1, opt=4, max=8)
GPU = Device("cuda", 0)
needs_gpu = pytest.mark.skipif(
    not cuda_device_count() or not is_installed("pycuda"), reason="no CUDA device or no pycuda"
)


@pytest.fixture(scope="module")
def portable(small: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portable")
    built = compile_graph(
        "tensorrt_rtx", small["fp32"], "fp32", PROFILE, folder, Context(dir=folder),
        targets=PORTABLE,
    )  # fmt: skip
    return built.path


def test_the_manifest_gives_the_runner_names_and_shapes(portable: Path) -> None:
    binding = binding_of(load_manifest(portable))
    assert (binding.input, binding.input_shape) == ("images", (8, 8, 3))
    assert (binding.output, binding.output_shape) == ("logits", (5,))
    assert binding.profile == PROFILE


def test_an_engine_with_other_tensors_is_refused(portable: Path) -> None:
    manifest = load_manifest(portable)
    half = (Tensor(name="logits", dtype="float16", shape=(-1, 5)),)
    with pytest.raises(EngineUnusable, match=r"gives \[\('logits', 'float16'\)\]. Allowed: one"):
        binding_of(replace(manifest, outputs=half))
    with pytest.raises(EngineUnusable, match=r"Allowed: one uint8 input of images or int32"):
        binding_of(replace(manifest, inputs=manifest.inputs * 2))


def test_a_good_engine_is_refused_on_the_cpu(portable: Path) -> None:
    with pytest.raises(BackendUnavailable, match="runs on a CUDA device, and the device is cpu"):
        open_engine(portable, CPU)


@pytest.fixture(scope="module")
def runner(
    small: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineRunner]:
    folder = tmp_path_factory.mktemp("mine")
    built = compile_graph(
        "tensorrt_rtx", small["fp32"], "fp32", PROFILE, folder, Context(dir=folder, device=GPU),
        targets=(CURRENT,),
    )  # fmt: skip
    assert built.runs_here
    runner = open_engine(built.path, GPU)
    yield runner
    runner.close()


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("count", [1, 3, 8, 9, 50])
def test_an_engine_gives_the_logits_of_its_graph_gpu(
    small: Mapping[str, Path], runner: EngineRunner, count: int
) -> None:
    session = onnxruntime.InferenceSession(str(small["fp32"]), providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {"images": pixels(count)})[0]
    np.testing.assert_allclose(runner(pixels(count)), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_torch_tensor_is_bound_where_it_lies_gpu(runner: EngineRunner) -> None:
    images = torch.from_numpy(pixels(20)).cuda()
    direct = runner.on_device(images)
    assert direct.is_cuda
    np.testing.assert_allclose(direct.cpu().numpy(), runner(pixels(20)), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@needs_gpu
def test_the_primary_context_leaves_torch_alone_gpu(runner: EngineRunner) -> None:
    before = torch.arange(10, device="cuda")
    runner(pixels(5))
    assert int((before + 1).sum()) == 55
