from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
from small_exports import export

from pipeline.artifacts import DataSpec, ExportedModel, TrainedModel
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import DataError, Interrupted, StageFailed
from pipeline.report.blocks import Facts, ScatterChart, Table, load_section
from pipeline.stage import Checks, Fingerprints, Rehearses, load_stage
from stages.export.cast import to_fp16
from stages.export.measure import load_predictions
from stages.export.stage import Export


@pytest.fixture(scope="module")
def run(spec, trained, tmp_path_factory) -> tuple[ExportedModel, Context]:
    """Return what one whole run left."""
    context = Context(
        dir=tmp_path_factory.mktemp("export"), artifacts={DataSpec: spec, TrainedModel: trained}
    )
    return export().run(context), context


def test_the_stage_keeps_the_contract():
    assert load_stage("export") is Export
    stage = export()
    assert isinstance(stage, Checks)
    assert isinstance(stage, Fingerprints)
    assert isinstance(stage, Rehearses)


def test_every_precision_is_measured_and_one_is_chosen(run):
    exported, context = run
    assert [v.name for v in exported.variants] == [
        "onnxruntime-fp32", "onnxruntime-fp16", "onnxruntime-int8",
    ]  # fmt: skip
    for variant in exported.variants:
        assert variant.path.is_relative_to(context.dir)
        assert variant.size_bytes == variant.path.stat().st_size
        assert variant.top1 > 0.5
        assert 0 < variant.p50_ms <= variant.p99_ms
        assert variant.images_per_s > 0
    assert exported.variant(exported.chosen).accepted


def test_fp32_answers_as_the_trained_model_and_int8_nearly(run):
    exported, _ = run
    fp32, fp16, int8 = exported.variants
    assert (fp32.drop_points, fp32.agreement) == (0.0, 1.0)
    assert fp16.agreement >= 0.99
    assert int8.agreement >= 0.95
    assert int8.proof == {"int8": 5}
    assert int8.size_bytes < 0.5 * fp32.size_bytes


def test_predictions_are_kept_in_manifest_order(run, trained):
    exported, _ = run
    right = load_predictions(trained.predictions)
    kept = load_predictions(exported.variants[0].predictions)
    assert np.array_equal(kept.targets, right.targets)
    assert np.allclose(kept.logits, right.logits, atol=1e-3)


def test_there_is_a_gate_and_a_hop_for_each(run, spec):
    exported, _ = run
    assert [gate.name for gate in exported.gates] == [
        f"accuracy drop of {variant.name}" for variant in exported.variants
    ]
    assert all(gate.passed for gate in exported.gates)
    assert [hop.name for hop in exported.hops] == ["onnx fp32", "onnx fp16", "onnx int8"]
    assert {hop.samples for hop in exported.hops} == {spec.splits["eval"].samples}


def test_the_section_has_a_row_for_each_and_sets_off_the_chosen(run):
    exported, context = run
    section = load_section(context.dir)
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == [variant.name for variant in exported.variants]
    (chosen,) = table.highlight
    assert table.rows[chosen][0] == exported.chosen
    assert any(isinstance(block, ScatterChart) for block in section.blocks)
    calibration = [b for b in section.blocks if isinstance(b, Facts) and b.title == "Calibration"]
    assert dict(calibration[0].items)["samples"] == 36


def test_no_file_holds_the_path_of_the_folder(run):
    _, context = run
    for path in context.dir.rglob("*.json"):
        assert str(context.dir) not in path.read_text()


def test_a_second_run_in_the_same_folder_reuses_graph_and_table(run, recorder):
    _, context = run
    from pipeline.events import EventLog

    graph = context.dir / "graphs" / "fp32.onnx"
    before = graph.stat().st_mtime_ns
    export().run(replace(context, events=EventLog((recorder,))))
    assert graph.stat().st_mtime_ns == before
    assert any("table reused" in message for message in recorder.messages("info"))


def test_a_budget_that_int8_breaks_fails_its_gate_and_another_is_chosen(ctx):
    found = export(min_agreement=1.0, precisions=["fp32", "int8"]).run(ctx)
    int8 = found.variant("onnxruntime-int8")
    if int8.agreement < 1.0:
        assert found.chosen == "onnxruntime-fp32"
        assert not int8.accepted
        assert [gate.passed for gate in found.gates if "agreement" in gate.name] == [True, False]


def test_one_variant_that_fails_does_not_lose_the_others(ctx, monkeypatch):
    from stages.export import forge

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Unsupported operator Foo")

    monkeypatch.setattr(forge, "quantize", refuse)
    found = export(calibration={"samples": 8}).run(ctx)
    int8 = found.variant("onnxruntime-int8")
    assert (int8.accepted, int8.runs_here, int8.size_bytes) == (False, False, 0)
    assert "Unsupported operator Foo" in int8.note
    assert [gate.name for gate in found.gates if not gate.passed] == ["onnxruntime-int8 builds"]
    assert found.chosen in ("onnxruntime-fp32", "onnxruntime-fp16")


def test_predictions_about_other_samples_are_refused(ctx, trained, tmp_path):
    other = load_predictions(trained.predictions)
    np.savez(tmp_path / "short.npz", logits=other.logits[:-1], targets=other.targets[:-1])
    changed = replace(trained, predictions=tmp_path / "short.npz")
    artifacts = {**ctx.artifacts, TrainedModel: changed}
    with pytest.raises(DataError, match=r"measured on 449 eval samples .* on 450"):
        export(precisions=["fp32"]).run(replace(ctx, artifacts=artifacts))


def test_a_stop_is_heeded(ctx):
    ctx.stop.request("SIGTERM")
    with pytest.raises(Interrupted, match="SIGTERM"):
        export().run(ctx)


def test_a_rehearsal_builds_everything_quickly_from_an_untrained_model(ctx, describe):
    from export_nets import attention_net

    untrained = describe(attention_net(), "attention_net")
    start = time.perf_counter()
    found = export().rehearse(replace(ctx, artifacts={**ctx.artifacts, TrainedModel: untrained}))
    assert time.perf_counter() - start < 60
    assert len(found.variants) == 3
    assert found.gates == ()
    assert found.chosen in {variant.name for variant in found.variants}


def test_a_rehearsal_names_an_unsupported_operator(ctx, describe):
    from export_nets import unsupported_net

    untrained = describe(unsupported_net(), "unsupported_net")
    artifacts = {**ctx.artifacts, TrainedModel: untrained}
    with pytest.raises(StageFailed, match=r"'aten\._linalg_eigh' has no ONNX form"):
        export().rehearse(replace(ctx, artifacts=artifacts))


def test_check_names_an_unknown_backend_and_an_unknown_choice():
    (problem,) = export(backend="onnxruntme").check(CPU)
    assert problem.path == "backend"
    assert "Did you mean 'onnxruntime'?" in problem.message
    (problem,) = export(choose="onnxruntime-int4").check(CPU)
    assert problem.path == "choose"
    assert "Did you mean 'onnxruntime-int8'?" in problem.message
    assert export(choose="onnxruntime-fp16").check(CPU) == []


def test_the_fingerprint_names_versions_and_cpu():
    found = export().fingerprint(CPU)
    assert found["onnx"] == onnx.__version__
    assert found["cpu"]


def test_values_that_fp16_cannot_hold_are_kept_out_of_it(ctx, trained, images, recorder):
    from onnx.reference import ReferenceEvaluator

    loud = replace(trained, module=replace(trained.module, factory="export_nets:loud_net"))
    artifacts = {**ctx.artifacts, TrainedModel: loud}
    found = export(precisions=["fp32", "fp16"]).run(replace(ctx, artifacts=artifacts))
    assert any("FP16 ends at 65504" in text for text in recorder.messages("warning"))
    fp32, fp16 = found.variants
    # ONNX's own evaluator computes in the types as written, which ONNX Runtime on a CPU does not.
    naive = to_fp16(onnx.load(fp32.path))
    with np.errstate(all="ignore"):
        lost, kept = (
            ReferenceEvaluator(model).run(None, {"images": images[:4]})[0]
            for model in (naive, onnx.load(fp16.path))
        )
    assert not np.isfinite(lost).all()
    assert np.isfinite(kept).all()
    assert fp16.path != fp32.path
