from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.backend import named
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import BackendUnavailable
from stages.export.backends import BACKENDS, BatchProfile, ExportBackend
from stages.export.engine.architecture import PORTABLE
from stages.export.engine.build import BuildFailed
from stages.export.engine.manifest import load_manifest

pytest.importorskip("tensorrt_rtx")

PROFILE = BatchProfile(min=1, opt=2, max=4)


def load() -> ExportBackend:
    module = named(BACKENDS, "tensorrt-rtx", where="test").load()
    backend: ExportBackend = module  # type: ignore[assignment]
    return backend


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The smallest graph of the chain's form: uint8 images, one convolution, logits."""
    random = np.random.default_rng(0)
    weights = numpy_helper.from_array(random.normal(size=(5, 3, 4, 4)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w"], ["maps"], "conv"),
        helper.make_node("Flatten", ["maps"], ["logits"], "flatten"),
    ]
    built = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ("n", 4, 4, 3))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("n", 5))],
        [weights],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(built, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_it_takes_the_signed_form_of_int8() -> None:
    assert load().INT8_FORM == "s8s8"


def test_without_a_gpu_it_builds_for_all_portable_architectures(
    graph: Path, tmp_path: Path
) -> None:
    built = load().build(graph, "fp32", PROFILE, tmp_path, Context(dir=tmp_path))
    assert built.proof == {"fp32": 1}
    assert not built.runs_here
    assert load_manifest(built.path).architectures == PORTABLE
    with pytest.raises(BackendUnavailable, match="runs on a CUDA device, and the device is cpu"):
        load().open_session(built.path, CPU)


def test_a_chosen_architecture_is_the_only_one_in_the_engine(graph: Path, tmp_path: Path) -> None:
    from stages.export.backends import tensorrt_rtx

    built = tensorrt_rtx.build(
        graph, "fp32", PROFILE, tmp_path, Context(dir=tmp_path), architectures=("SM86",)
    )
    assert load_manifest(built.path).architectures == ("SM86",)


def test_time_can_run_out(graph: Path, tmp_path: Path) -> None:
    from stages.export.backends import tensorrt_rtx

    with pytest.raises(BuildFailed, match=r"did not end within 0\.01 s"):
        tensorrt_rtx.build(graph, "fp32", PROFILE, tmp_path, Context(dir=tmp_path), timeout_s=0.01)
