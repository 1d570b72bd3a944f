"""Fast layers are kept only where they are faster than the dense ones they were converted from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_exports import export, variant

from pipeline.artifacts import ExportedModel, Network, TrainedModel
from pipeline.context import Context
from pipeline.errors import DataError
from pipeline.report.blocks import Note, load_section
from stages.export.config import ExportConfig
from stages.export.dense import judge_networks, outcome, races
from stages.export.measure import load_predictions
from stages.export.verdict import choose, judge

CONFIG = ExportConfig()
times = st.floats(0.1, 10)


def dense(precision="fp32", backend="onnxruntime", **figures):
    name = f"{backend}-{precision}-dense"
    return variant(precision, backend, **{"name": name, "dense": True, **figures})


@given(single=times, many=times)
def test_a_variant_stays_accepted_exactly_where_it_is_faster_at_both_batch_sizes(single, many):
    fast = variant(p50_ms=10 / single, images_per_s=100 * many)
    rival = dense(p50_ms=10.0, images_per_s=100.0)
    [race] = races([fast, rival])
    judged, untouched = judge_networks([fast, rival], 0.97, CONFIG)
    assert judged.accepted == race.is_won == (race.single > 1 and race.many > 1)
    assert ("times as fast as onnxruntime-fp32-dense at batch 1" in judged.note) != judged.accepted
    assert untouched == rival


def test_rivals_are_of_the_same_backend_and_precision():
    fast = [variant(), variant("int8"), variant(backend="tensorrt")]
    rivals = [dense(images_per_s=1e3, p50_ms=1.0), dense("int8", images_per_s=10.0, p50_ms=99.0)]
    assert [v.accepted for v in judge_networks([*fast, *rivals], None, CONFIG)] == [
        False, True, True, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "figures",
    [
        {"drop_points": 3.0},
        {"top1": 0.96},
        {"size_bytes": 0, "accepted": False, "p50_ms": None, "images_per_s": None},
        {"p50_ms": None, "images_per_s": None, "runs_here": False},
    ],
)
def test_one_that_is_inexact_unbuilt_or_not_measured_is_no_rival(figures):
    rival = dense(**{"images_per_s": 1e3, "p50_ms": 1.0, **figures})
    judged = judge_networks(judge([variant(), rival], CONFIG, {}), 0.97, CONFIG)
    assert judged[0].accepted
    assert choose(judged, CONFIG) == judged[0]


def test_the_fastest_of_both_networks_is_served_and_why_is_said():
    judged = judge_networks(
        [
            variant(images_per_s=300.0, p50_ms=5.0),
            dense(),
            dense("int8", images_per_s=500.0, p50_ms=3.0),
        ],
        0.97,
        CONFIG,
    )
    chosen = choose(judged, CONFIG)
    assert chosen.name == "onnxruntime-int8-dense"
    assert outcome(judged, chosen, CONFIG) == (
        "onnxruntime-int8-dense is served, the dense network: onnxruntime-fp32 is 2.00 times as "
        "fast as onnxruntime-fp32-dense at batch 1, 3.00 at batch 8."
    )
    assert outcome(judged[:1], judged[0], CONFIG) == ""


def test_why_a_dense_variant_is_passed_over_is_said():
    rival = dense(top1=0.94, note="computed in FP32")
    judged = judge_networks(judge([variant(), rival], CONFIG, {}), 0.97, CONFIG)
    assert outcome(judged, judged[0], CONFIG) == (
        "onnxruntime-fp32 is served, the network with fast layers: onnxruntime-fp32-dense is "
        "3.00 points below the trained network, 0.5 are allowed."
    )


@pytest.fixture
def exported(
    ctx: Context, trained: TrainedModel
) -> Callable[..., tuple[ExportedModel, TrainedModel]]:
    """Return a function that exports one network, with another as the one it was converted from."""

    def run(function: str, twin: str, **changes):
        of = {
            name: replace(trained.module, factory=f"export_nets:{name}")
            for name in (function, twin)
        }
        weights = changes.pop("weights", trained.weights)
        model = replace(
            trained, module=of[function], dense=Network(module=of[twin], weights=weights)
        )
        artifacts = {**ctx.artifacts, TrainedModel: model}
        quick = {"calibration": {"samples": 16, "method": "minmax"}}
        return export(**quick, **changes).run(replace(ctx, artifacts=artifacts)), model

    return run


def test_a_faster_network_is_kept_and_stands_beside_the_dense_one(exported, ctx, recorder):
    found, _ = exported("conv_net", "laboured_net")
    assert [v.name for v in found.variants] == [
        f"onnxruntime-{precision}{suffix}"
        for suffix in ("", "-dense")
        for precision in ("fp32", "fp16", "int8")
    ]
    assert not found.variant(found.chosen).dense
    assert found.calibration == ctx.dir / "calibration.json"
    assert all("dense" not in hop.name for hop in found.hops)
    told = next(m for m in recorder.messages("info") if m.startswith("chosen: "))
    assert "the network with fast layers: onnxruntime-fp32 is " in told
    notes = [b.text for b in load_section(ctx.dir).blocks if isinstance(b, Note)]
    assert f"chosen: {notes[1]}" == told


def test_where_fast_layers_are_slower_the_dense_network_is_what_is_served(exported, ctx):
    found, model = exported("laboured_net", "conv_net", precisions=["fp32", "int8"])
    chosen = found.variant(found.chosen)
    assert chosen.dense
    assert chosen.path.is_relative_to(ctx.dir)
    fast = found.variant("onnxruntime-fp32")
    assert not fast.accepted
    assert "times as fast as onnxruntime-fp32-dense at batch 1" in fast.note
    assert [gate.name for gate in found.gates] == [
        "accuracy drop of onnxruntime-fp32-dense", "accuracy drop of onnxruntime-int8-dense",
    ]  # fmt: skip
    assert [hop.name for hop in found.hops] == ["dense onnx fp32", "dense onnx int8"]
    assert found.calibration == ctx.dir / "calibration-dense.json"
    served = load_predictions(found.variant("onnxruntime-fp32-dense").predictions)
    right = load_predictions(model.predictions)
    assert abs(served.logits - right.logits).max() < 1e-3


def test_a_dense_network_that_answers_worse_does_not_take_the_place(exported, trained, tmp_path):
    weights = load_file(trained.weights)
    weights["net.9.weight"] = -weights["net.9.weight"]
    save_file(weights, tmp_path / "worse.safetensors")
    found, _ = exported("laboured_net", "conv_net", weights=tmp_path / "worse.safetensors")
    assert not found.variant(found.chosen).dense
    dense = found.variant("onnxruntime-fp32-dense")
    assert "points below the trained network, 2 are allowed" in dense.note
    assert (dense.drop_points, dense.agreement) == (0.0, 1.0)
    assert all(gate.passed for gate in found.gates)


def test_a_dense_network_whose_weights_are_gone_is_told(exported, tmp_path):
    with pytest.raises(
        DataError, match=r"the weights .*gone\.safetensors are not there. Run train"
    ):
        exported("conv_net", "conv_net", weights=tmp_path / "gone.safetensors")


def test_a_rehearsal_leaves_the_dense_network_out(ctx, trained):
    both = replace(trained, dense=Network(module=trained.module, weights=trained.weights))
    found = export().rehearse(replace(ctx, artifacts={**ctx.artifacts, TrainedModel: both}))
    assert not any(each.dense for each in found.variants)
