from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.artifacts import TensorSpec
from pipeline.device import CPU
from pipeline.errors import StageFailed
from stages.export.backends.onnxruntime import open_session
from stages.export.graph import opset
from stages.export.parity import PARITY_BATCHES, compare, sqnr_db, torch_answer
from stages.export.to_onnx import to_onnx

IMAGES = TensorSpec(name="images", dtype="uint8", shape=(-1, 16, 16, 1))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=(-1, 10))


@pytest.mark.parametrize("net", ["conv", "attention"])
def test_the_graph_answers_what_torch_answers_at_every_parity_batch(net, request, images):
    exported = request.getfixturevalue(net)
    figures = compare(torch_answer(exported.module), open_session(exported.graph, CPU), images)
    assert [parity.batch for parity in figures] == list(PARITY_BATCHES)
    assert all(parity.sqnr_db > 90 for parity in figures)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batch=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_any_batch_of_any_pixels_has_parity(conv, batch, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, 16, 16, 1), dtype=np.uint8)
    right = torch_answer(conv.module)(pixels)
    assert sqnr_db(right, open_session(conv.graph, CPU, threads=1)(pixels)) > 80


def test_the_opset_asked_for_is_the_opset_written(conv, tmp_path: Path):
    to_onnx(conv.module, IMAGES, LOGITS, tmp_path / "graph.onnx", opset=18)
    assert opset(onnx.load(tmp_path / "graph.onnx")) == 18


def test_weights_are_inside_the_file(conv):
    assert [path.name for path in conv.graph.parent.iterdir()] == [conv.graph.name]


def test_an_unsupported_operator_is_named(tmp_path: Path):
    from export_nets import Unsupported

    with pytest.raises(StageFailed, match=r"operator 'aten\._linalg_eigh' has no ONNX form"):
        to_onnx(Unsupported().eval(), IMAGES, LOGITS, tmp_path / "graph.onnx", opset=20)


def test_a_branch_on_values_is_told_from_an_unsupported_operator(tmp_path: Path):
    from export_nets import Branching

    with pytest.raises(StageFailed, match="cannot be traced: .*data-dependent"):
        to_onnx(Branching().eval(), IMAGES, LOGITS, tmp_path / "graph.onnx", opset=20)


def test_a_frozen_batch_axis_is_found(tmp_path: Path):
    from export_nets import Frozen

    with pytest.raises(StageFailed, match=r"gives logits float32 \[2, 10\].*\[-1, 10\]"):
        to_onnx(Frozen().eval(), IMAGES, LOGITS, tmp_path / "graph.onnx", opset=20)


def test_a_wrong_number_of_classes_is_found(conv, tmp_path: Path):
    eleven = TensorSpec(name="logits", dtype="float32", shape=(-1, 11))
    with pytest.raises(StageFailed, match=r"must take .* and give logits float32 \[-1, 11\]"):
        to_onnx(conv.module, IMAGES, eleven, tmp_path / "graph.onnx", opset=20)
