"""The search of a learning rate: what it finds, and that nobody notices it was made."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import ConfigError, Interrupted, StageFailed
from pipeline.report.blocks import LineChart, load_section
from stages.train.config import OptimizerConfig, TrainConfig
from stages.train.models.factory import build_model
from stages.train.optim import build_optimizer
from stages.train.rate_search import HIGHEST, LOWEST, steepest

AUTO = {"name": "adamw", "lr": "auto"}


def test_a_run_with_the_found_rate_written_down_is_the_same_run(train_once, recorder, tmp_path):
    searched = train_once("searched", optimizer=AUTO)
    [event] = recorder.of("rate search")
    rate = event.fields["rate"]
    assert LOWEST < rate < HIGHEST / 10
    written = train_once("written", optimizer=AUTO | {"lr": rate})
    a, b = load_file(searched.weights), load_file(written.weights)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert searched.metrics["top1"] > 0.6
    assert f"auto takes {rate:.2g}" in " ".join(recorder.messages("info"))


def test_the_curve_is_in_the_report(train_once, tmp_path):
    train_once(optimizer=AUTO, epochs=1)
    blocks = load_section(tmp_path / "run").blocks
    [chart] = [b for b in blocks if isinstance(b, LineChart) and "Search" in b.title]
    assert [series.name for series in chart.series] == ["loss", "chosen"]
    assert len(chart.series[0].x) > 10


def test_an_interrupted_run_goes_on_with_the_rate_it_found(train_once, recorder, stop, tmp_path):
    recorder.on_event = lambda e: stop.request("a test") if e.kind == "epoch" else None
    with pytest.raises(Interrupted):
        train_once(optimizer=AUTO)
    recorder.on_event = lambda event: None
    stop.signal_name = ""
    path = tmp_path / "run" / "rate_search.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rate": 0.0123}))
    train_once(optimizer=AUTO)
    assert recorder.of("rate search")[-1].fields["rate"] == 0.0123


@pytest.mark.parametrize("at", [1e-4, 1e-3, 1e-2])
def test_the_rate_is_where_the_curve_falls_fastest(at):
    rates = np.geomspace(LOWEST, HIGHEST, 100)
    losses = 2 - np.tanh(2 * np.log(rates / at)) + np.clip(np.log(rates / (at * 30)), 0, None) ** 2
    assert steepest(list(rates), list(losses)) == pytest.approx(at, rel=0.2)


def test_a_loss_that_never_falls_is_told():
    with pytest.raises(StageFailed, match="lr: auto: the loss fell at no rate from 1e-06"):
        steepest(list(np.geomspace(1e-6, 1e-3, 40)), list(np.linspace(1, 2, 40)))


def test_a_search_needs_one_process_on_one_device():
    with pytest.raises(ValueError, match=r"'auto' is searched by one process on one device"):
        TrainConfig.model_validate({"optimizer": AUTO, "launch": {"processes": 2}})
    data = {"classes": 2, "height": 32, "width": 32, "channels": 1, "mean": (0.5,), "std": (1.0,)}
    with pytest.raises(ConfigError, match="has to be searched before the optimizer is built"):
        build_optimizer(build_model("test_resnet", **data), OptimizerConfig.model_validate(AUTO))
