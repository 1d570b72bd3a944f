"""Graphs with operators of our own: who gets one, what lies beside it, and what it answers."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from pipeline.artifacts import DataSpec, ExportedModel, TrainedModel
from pipeline.context import Context
from pipeline.device import CPU, Device
from pipeline.errors import StageFailed
from pipeline.events import EventLog
from pipeline.graph_forms import OPERATORS_FILE
from pipeline.report.blocks import Table, load_section
from stages.augment.loader import open_loader
from stages.export.backends.onnxruntime import open_session
from stages.export.config import ExportConfig
from stages.export.restore import restore
from stages.export.stage import Export
from stages.train.fff import onnx_operator
from stages.train.fff.onnx_operator import DOMAIN, LIBRARY

needs_library = pytest.mark.skipif(
    LIBRARY.path() is None, reason=f"{LIBRARY.file} was not built: there was no C++ compiler"
)
QUICK = {
    "backend": "onnxruntime",
    "custom_operators": True,
    "calibration": {"samples": 16, "method": "minmax"},
    "latency": {"seconds": 0.05, "rounds": 2, "threads": 1},
    "batch": {"min": 1, "opt": 4},
    "max_drop": 100,
    "speed_tolerance": 1.0,
}


def export(**changes: object) -> Export:
    return Export(ExportConfig.model_validate({**QUICK, **changes}))


@pytest.fixture(scope="module")
def fast(spec: DataSpec, describe, _nets) -> TrainedModel:
    """Return an untrained net with fast layers, and what it answers."""
    from export_nets import fast_net  # type: ignore[import-not-found]

    torch.manual_seed(0)
    net = fast_net().eval()
    loader = open_loader(spec, "eval")
    with torch.inference_mode():
        answers = [(net(batch.inputs), batch.targets) for batch in loader]
    loader.close()
    model = describe(net, "fast_net")
    path = model.weights.parent / "predictions.npz"
    logits, targets = (torch.cat(parts).numpy() for parts in zip(*answers, strict=True))
    np.savez(path, logits=logits, targets=targets)
    return replace(model, predictions=path)


@pytest.fixture(scope="module")
def run(spec, fast, tmp_path_factory) -> tuple[ExportedModel, Context]:
    """Return what one whole run left."""
    artifacts = {DataSpec: spec, TrainedModel: fast}
    context = Context(dir=tmp_path_factory.mktemp("export"), artifacts=artifacts)
    return export().run(context), context


def domains(path) -> set[str]:
    return {node.domain for node in onnx.load(path).graph.node}


@needs_library
def test_the_fp32_graph_has_the_operators_and_their_library_lies_beside_it(run):
    exported, _ = run
    fp32 = exported.variant("onnxruntime-fp32")
    assert domains(fp32.path) == {"", DOMAIN}
    assert fp32.operators == fp32.path.with_name(OPERATORS_FILE)
    assert fp32.operators.read_bytes() == LIBRARY.require().read_bytes()
    assert fp32.proof == {"custom": 2, "fp32": 2}
    onnx.checker.check_model(str(fp32.path), full_check=True)


@needs_library
def test_it_answers_as_the_network_does(run, fast, images):
    exported, _ = run
    fp32 = exported.variant("onnxruntime-fp32")
    assert (fp32.drop_points, fp32.agreement, fp32.accepted) == (0.0, 1.0, True)
    module = restore(fast)
    session = open_session(fp32.path, CPU, threads=1)
    for batch in (images[:0], images[:1], images):
        with torch.no_grad():
            right = module(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(session(batch), right, rtol=1e-4, atol=1e-4)


@needs_library
def test_a_graph_that_lost_its_library_says_so(run, tmp_path):
    exported, _ = run
    alone = tmp_path / "fp32.onnx"
    shutil.copyfile(exported.variant("onnxruntime-fp32").path, alone)
    with pytest.raises(StageFailed, match=rf"or put the library .* as {OPERATORS_FILE}\."):
        open_session(alone, CPU)


@needs_library
def test_graphs_of_other_precisions_keep_plain_operators_and_need_no_library(run):
    exported, context = run
    for name in ("onnxruntime-fp16", "onnxruntime-int8"):
        variant = exported.variant(name)
        assert variant.operators is None
        assert variant.size_bytes
        assert DOMAIN not in domains(variant.path)
    assert DOMAIN not in domains(context.dir / "graphs" / "fp32.onnx")


@needs_library
def test_the_report_has_the_operator_beside_the_plain_forms(run):
    _, context = run
    blocks = load_section(context.dir).blocks
    (table,) = (b for b in blocks if isinstance(b, Table) and b.title == "Forms of layers")
    kept = {row[1]: row[-1] for row in table.rows}
    assert list(kept) == ["gathered", "masked", "operator", "dense, of that size"]
    assert kept["dense, of that size"].startswith("kept is ")
    assert kept["operator"] == "kept"
    assert sorted([kept["gathered"], kept["masked"]]) == ["", "kept where operators are plain"]
    assert {row[0] for row in table.rows} == {"net.2 (+ 1)"}


@needs_library
def test_a_second_run_reuses_both_graphs(run, recorder):
    exported, context = run
    graphs = [exported.variants[0].path, context.dir / "graphs" / "fp32.onnx"]
    before = [graph.stat().st_mtime_ns for graph in graphs]
    again = export().run(replace(context, events=EventLog((recorder,))))
    assert [graph.stat().st_mtime_ns for graph in graphs] == before
    assert again.variants[0].operators == exported.variants[0].operators
    assert not any("exporting to ONNX" in message for message in recorder.messages("info"))


@needs_library
def test_without_the_setting_graphs_run_anywhere(ctx, fast):
    artifacts = {**ctx.artifacts, TrainedModel: fast}
    found = export(custom_operators=False, precisions=["fp32"]).run(
        replace(ctx, artifacts=artifacts)
    )
    assert domains(found.variants[0].path) == {""}
    assert found.variants[0].operators is None


@needs_library
def test_a_model_without_such_layers_is_exported_and_said_to_have_none(ctx, recorder):
    found = export(precisions=["fp32"]).run(ctx)
    assert found.variants[0].operators is None
    assert any("no layer of this model is an operator" in m for m in recorder.messages("info"))


@needs_library
def test_a_rehearsal_has_the_operators_too(ctx, fast):
    artifacts = {**ctx.artifacts, TrainedModel: fast}
    found = export(precisions=["fp32"]).rehearse(replace(ctx, artifacts=artifacts))
    assert domains(found.variants[0].path) == {"", DOMAIN}


@pytest.mark.parametrize(
    ("changes", "device", "reason"),
    [
        ({}, Device("cuda"), "they compute on a CPU, and the device is cuda"),
        ({"precisions": ["int8"]}, CPU, "they compute in FP32, and precisions leave it out"),
        ({"backend": "tensorrt-rtx"}, CPU, "ONNX Runtime loads them, and backend leaves it out"),
    ],
)
def test_where_it_has_no_effect_the_reason_is_known(changes, device, reason):
    from pipeline.backend import named
    from stages.export.backends import BACKENDS

    stage = export(**changes)
    backends = [named(BACKENDS, name, where="") for name in stage.config.backend_names]
    assert reason in str(stage.why_no_operators(backends, device))


@needs_library
def test_a_setting_without_effect_is_warned_of(ctx, recorder):
    export(precisions=["fp16"]).run(ctx)
    (warning,) = (w for w in recorder.messages("warning") if "custom_operators" in w)
    assert "has no effect here: they compute in FP32" in warning


def test_a_library_that_was_not_built_is_a_problem_that_says_what_to_do(monkeypatch):
    gone = replace(LIBRARY, file="gone.so")
    monkeypatch.setattr(onnx_operator, "LIBRARY", gone)
    (problem,) = export().check(CPU)
    assert problem.path == "custom_operators"
    assert problem.message.startswith("gone.so is not there. pip builds it where it finds a C++")
    assert problem.message.endswith("Or set custom_operators: false.")
    assert export(custom_operators=False).check(CPU) == []
    auto = export(custom_operators="auto")
    assert auto.check(CPU) == []
    assert not auto.config.takes_operators


def test_without_any_library_the_problem_is_the_installation(monkeypatch):
    monkeypatch.setattr("stages.export.stage.operator_libraries", list)
    (problem,) = export().check(CPU)
    assert "no library of operators is registered. Install dlpipe again." in problem.message


@needs_library
def test_the_fingerprint_names_the_library_where_it_may_be_used(monkeypatch):
    plain = export(custom_operators=False).fingerprint(CPU)
    assert set(export().fingerprint(CPU)) - set(plain) == {f"operators {LIBRARY.file}"}
