"""A graph with operators of our own: its library goes where the graph goes, and is served."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.artifacts import DataSpec
from pipeline.device import CPU
from pipeline.graph_forms import OPERATORS_FILE
from stages.deploy.backends.tritonserver import unmounted
from stages.deploy.config import DeployConfig, LoadConfig
from stages.deploy.model_configs import tensor_model
from stages.deploy.offline import OnnxModel
from stages.deploy.pbtxt import CONFIG_FILE, parse
from stages.deploy.plan import make_plan
from stages.deploy.repository import write_repository
from stages.deploy.stage import Deploy
from stages.train.fff.onnx_operator import DOMAIN, LIBRARY, NAME

from .conftest import CHANNELS, CLASSES, SAMPLES, SIDE, Chain, Recorder

pytestmark = pytest.mark.skipif(
    LIBRARY.path() is None, reason=f"{LIBRARY.file} was not built: there was no C++ compiler"
)
INPUTS, DEPTH = SIDE * SIDE * CHANNELS, 3


def write_fast_model(path: Path) -> None:
    """Write a classifier that is one fast feedforward layer without biases."""
    rng = np.random.default_rng(5)
    neurons = 2 ** (DEPTH + 1) - 1
    w_in = rng.normal(0, 0.01, (neurons, INPUTS)).astype(np.float32)
    w_out = rng.normal(0, 1, (neurons, len(CLASSES))).astype(np.float32)
    says = {"depth": DEPTH, "trees": 1, "activation": "relu"}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node(NAME, ["flat", "w_in", "w_out"], ["logits"], domain=DOMAIN, **says),
        ],
        "fast",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, CHANNELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASSES)])],
        [numpy_helper.from_array(w_in, "w_in"), numpy_helper.from_array(w_out, "w_out")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


@pytest.fixture(scope="module")
def fast(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Return what export would have left of a model whose graph has the operator."""
    folder = tmp_path_factory.mktemp("fast")
    write_fast_model(folder / "fp32.onnx")
    shutil.copyfile(LIBRARY.require(), folder / OPERATORS_FILE)
    changed = chain.with_variant(
        path=folder / "fp32.onnx", operators=folder / OPERATORS_FILE, predictions=None
    )
    return replace(changed, spec=replace(chain.spec, preprocess=None))


def test_the_offline_model_loads_the_library_beside_the_graph(fast: Chain) -> None:
    graph = fast.exported.variants[0].path
    logits = OnnxModel(graph)(np.full((2, SIDE, SIDE, CHANNELS), 7, np.uint8))
    assert logits.shape == (2, len(CLASSES))
    assert (logits[0] == logits[1]).all()
    assert logits.any()


def test_the_embedded_server_answers_as_the_offline_model_does_to_the_bit(
    fast: Chain, tmp_path: Path
) -> None:
    recorder = Recorder()
    config = DeployConfig(
        backend="triton-embedded", load=LoadConfig(enabled=False), kubernetes=None, max_batch=4
    )
    deployment = Deploy(config).run(fast.context(tmp_path, recorder))
    version_dir = deployment.repository / deployment.model / "1"
    assert (version_dir / OPERATORS_FILE).read_bytes() == LIBRARY.require().read_bytes()
    assert all(gate.passed for gate in deployment.gates)
    alone = [event.fields for event in recorder.of("served") if event.fields["batch"] == 1]
    assert alone
    assert all(check["bit_equal"] == SAMPLES for check in alone)


def test_a_native_server_is_told_where_the_library_is(fast: Chain, tmp_path: Path) -> None:
    plan = make_plan(DeployConfig(), "native", fast.spec, fast.exported, CPU)
    (library,) = tensor_model(plan).model_operations.op_library_filename
    assert library == f"/models/{plan.name}/{plan.version}/{OPERATORS_FILE}"
    repository = tmp_path / "repository"
    write_repository(repository, plan, None, None)
    (library,) = parse(
        (unmounted(repository) / plan.name / CONFIG_FILE).read_text()
    ).model_operations.op_library_filename
    assert Path(library).read_bytes() == LIBRARY.require().read_bytes()


def test_a_graph_of_plain_operators_brings_no_library(chain: Chain, tmp_path: Path) -> None:
    spec = chain.context(tmp_path).get(DataSpec)
    plan = make_plan(DeployConfig(), "native", spec, chain.exported, CPU)
    assert not tensor_model(plan).HasField("model_operations")
    write_repository(tmp_path / "repository", plan, None, None)
    assert not list(tmp_path.rglob(OPERATORS_FILE))
