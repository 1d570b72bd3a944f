from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_exports import variant

from pipeline.artifacts import Variant
from pipeline.errors import StageFailed
from stages.export.config import ExportConfig
from stages.export.verdict import choose, gates, hops, judge

CONFIG = ExportConfig()


def failed(precision="int8") -> Variant:
    return variant(
        precision, size_bytes=0, runs_here=False, top1=None, drop_points=None, agreement=None,
        p50_ms=None, p99_ms=None, images_per_s=None, accepted=False, note="no such operator",
    )  # fmt: skip


@given(drop=st.floats(-5, 5), limit=st.floats(0, 3))
def test_a_variant_is_accepted_exactly_when_its_gate_passes(drop, limit):
    config = ExportConfig(max_drop=limit)
    judged = judge([variant("int8", drop_points=drop)], config, {})
    (gate,) = gates(judged, config, {})
    assert judged[0].accepted == gate.passed == (drop <= limit)


def test_the_fastest_accepted_variant_is_chosen():
    judged = judge(
        [
            variant(),
            variant("fp16", images_per_s=300.0),
            variant("int8", images_per_s=900.0, drop_points=2.0),
        ],
        CONFIG,
        {},
    )
    assert choose(judged, CONFIG).name == "onnxruntime-fp16"
    assert "loses 2.00 points, 0.5 are allowed" in judged[2].note


def test_slower_than_its_parent_is_rejected_and_fails_no_gate():
    judged = judge([variant(), variant("fp16", images_per_s=50.0)], CONFIG, {})
    assert not judged[1].accepted
    assert "0.50 times the speed of onnxruntime-fp32" in judged[1].note
    assert all(gate.passed for gate in gates(judged, CONFIG, {}))


def test_slower_by_less_than_the_noise_of_the_clock_is_not_slower():
    assert judge([variant(), variant("fp16", images_per_s=97.0)], CONFIG, {})[1].accepted


def test_parents_are_of_the_same_backend():
    judged = judge(
        [variant(images_per_s=1000.0), variant("int8", "tensorrt", images_per_s=10.0)], CONFIG, {}
    )
    assert judged[1].accepted


def test_fastest_by_latency_looks_at_the_single_image():
    config = ExportConfig(fastest_by="latency")
    judged = judge([variant(p50_ms=4.0), variant("fp16", p50_ms=1.0, images_per_s=1.0)], config, {})
    assert choose(judged, config).name == "onnxruntime-fp16"


def test_agreement_below_the_limit_rejects_and_fails_a_gate():
    config = ExportConfig(min_agreement=0.99)
    judged = judge([variant("int8", agreement=0.95)], config, {})
    assert not judged[0].accepted
    assert [gate.name for gate in gates(judged, config, {}) if not gate.passed] == [
        "agreement of onnxruntime-int8"
    ]


def test_a_variant_that_was_not_built_fails_a_gate_and_is_never_chosen():
    judged = judge([variant(), failed()], CONFIG, {})
    assert choose(judged, CONFIG).name == "onnxruntime-fp32"
    gate = gates(judged, CONFIG, {})[-1]
    assert (gate.name, gate.passed, gate.message) == (
        "onnxruntime-int8 builds", False, "no such operator",
    )  # fmt: skip


def test_answers_that_are_not_finite_are_not_accepted_and_fail_a_gate():
    sick = {"onnxruntime-fp16": 7}
    judged = judge([variant("fp16")], CONFIG, sick)
    assert "NaN or Inf on 7" in judged[0].note
    found = gates(judged, CONFIG, sick)
    assert (found[0].passed, found[0].value) == (False, 7)


def test_with_none_accepted_the_most_accurate_is_chosen_and_its_gate_fails():
    judged = judge(
        [variant(drop_points=3.0, top1=0.9), variant("int8", drop_points=9.0, top1=0.8)], CONFIG, {}
    )
    assert choose(judged, CONFIG).name == "onnxruntime-fp32"
    assert not any(gate.passed for gate in gates(judged, CONFIG, {}))


def test_what_cannot_run_here_is_not_chosen_unless_named():
    engine = replace(variant("int8", "tensorrt-rtx"), runs_here=False, top1=None, images_per_s=None)
    judged = judge([variant(), engine], CONFIG, {})
    assert choose(judged, CONFIG).name == "onnxruntime-fp32"
    named = ExportConfig(choose="tensorrt-rtx-int8")
    assert choose(judged, named).name == "tensorrt-rtx-int8"
    with pytest.raises(StageFailed, match="nothing can be served"):
        choose([engine], CONFIG)


def test_a_named_variant_that_was_not_built_is_an_error():
    with pytest.raises(StageFailed, match="'onnxruntime-int8' was not built. Built were: onnxrun"):
        choose([variant(), failed()], ExportConfig(choose="onnxruntime-int8"))


def test_hops_are_those_of_one_backend():
    found = hops([variant(), variant("int8", top1=0.9), variant("fp16", "tensorrt")], 100)
    assert [(hop.name, hop.top1, hop.samples) for hop in found] == [
        ("onnx fp32", 0.97, 100),
        ("onnx int8", 0.9, 100),
    ]
