"""One key leaves a trace of a few steps and a table of the slowest operators."""

from __future__ import annotations

import json

import pytest

from stages.train.profile import FOLDER, OPERATORS, TRACE, read_operators


@pytest.fixture
def profiled(train_once, tmp_path):
    train_once(profile=2, epochs=1)
    return tmp_path / "run" / FOLDER


def test_the_trace_holds_the_operators_of_the_recorded_steps(profiled):
    events = json.loads((profiled / TRACE).read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    assert names.count("aten::_amp_foreach_non_finite_check_and_unscale_") == 2
    assert "aten::convolution_backward" in names
    assert "aten::_fused_adamw_" in names


def test_the_table_is_sorted_and_reaches_the_report(profiled):
    found = read_operators(profiled)
    assert [one.self_ms for one in found] == sorted((o.self_ms for o in found), reverse=True)
    assert 0 < sum(one.share for one in found) <= 1
    section = (profiled.parent / "section.json").read_text()
    assert "Slowest operators of a step" in section
    assert found[0].name in section


def test_too_short_a_run_is_said(train_once, recorder, tmp_path):
    train_once(profile=50, epochs=1)
    assert any("6 steps, before 3 of warm-up and 50" in m for m in recorder.messages("warning"))
    assert not (tmp_path / "run" / FOLDER / OPERATORS).exists()


def test_recording_does_not_change_the_weights(train_once):
    plain = train_once("plain", epochs=1)
    recorded = train_once("recorded", epochs=1, profile=2)
    assert plain.weights.read_bytes() == recorded.weights.read_bytes()
