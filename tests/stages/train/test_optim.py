"""Optimizers and schedules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from stages.train.config import OptimizerConfig, ScheduleConfig
from stages.train.optim import build_optimizer, skips_by_itself
from stages.train.schedule import build_schedule


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))


@pytest.mark.parametrize(("name", "fused"), [("sgd", True), ("adamw", True), ("lion", False)])
def test_it_is_fused_where_the_kernel_exists(name, fused):
    optimizer = build_optimizer(net(), OptimizerConfig(name=name))
    assert skips_by_itself(optimizer) == fused


def test_weight_decay_leaves_biases_and_norms_alone():
    optimizer = build_optimizer(net(), OptimizerConfig(weight_decay=0.1))
    decayed = {g["weight_decay"]: {p.ndim for p in g["params"]} for g in optimizer.param_groups}
    assert decayed == {0.0: {1}, 0.1: {2}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "adamv"},
            r"optimizer.name: 'adamv' is no optimizer of timm.* Did you mean 'adam",
        ),
        ({"momentum": 0.9}, r"optimizer.momentum: 'adamw' has no momentum.*\('sgd'\)"),
        (
            {"name": "sgd", "betas": [0.9, 0.99]},
            r"optimizer.betas: 'sgd' has no betas.*\('adamw'\)",
        ),
    ],
)
def test_a_wrong_setting_is_explained(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(net(), OptimizerConfig.model_validate(settings))


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["cosine", "onecycle", "step", "poly", "constant"]),
    epochs=st.integers(1, 5),
    steps=st.integers(1, 10),
    warmup=st.floats(0, 1),
)
def test_a_rate_is_positive_below_its_peak_and_a_function_of_the_step(name, epochs, steps, warmup):
    config = ScheduleConfig(name=name, warmup_epochs=warmup)
    optimizer = build_optimizer(net(), OptimizerConfig(lr=0.5))
    schedule = build_schedule(optimizer, config, epochs=epochs, steps_per_epoch=steps)
    rates = []
    for step in range(epochs * steps):
        schedule.apply(step)
        rates.append(schedule.lr)
        assert schedule.rate_at(step) == pytest.approx(schedule.lr)
    assert all(0 < rate <= 0.5 + 1e-9 for rate in rates)
    for step in (len(rates) - 1, 0, len(rates) // 2):  # in any order: it has no state
        schedule.apply(step)
        assert schedule.lr == rates[step]


@given(
    name=st.sampled_from(["cosine", "onecycle", "poly"]),
    epochs=st.integers(1, 5),
    warmup=st.floats(0, 1),
)
def test_the_fall_starts_at_the_peak_however_long_the_climb_was(name, epochs, warmup):
    config = ScheduleConfig(name=name, warmup_epochs=warmup * epochs)
    optimizer = build_optimizer(net(), OptimizerConfig(lr=1.0))
    schedule = build_schedule(optimizer, config, epochs=epochs, steps_per_epoch=20)
    top = round(config.warmup_epochs * 20)
    rates = [schedule.rate_at(step) for step in range(20 * epochs)]
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[:top] == sorted(rates[:top])
    if top < len(rates):
        assert rates[top] == pytest.approx(1.0)


def test_onecycle_climbs_then_falls_in_straight_lines():
    optimizer = build_optimizer(net(), OptimizerConfig(lr=1.0))
    config = ScheduleConfig(name="onecycle", warmup_epochs=1)
    schedule = build_schedule(optimizer, config, epochs=3, steps_per_epoch=4)
    rates = [schedule.rate_at(step) for step in range(12)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, *[(12 - s) / 8 for s in range(4, 12)]])


def test_a_rollbacks_scale_multiplies_the_rate():
    optimizer = build_optimizer(net(), OptimizerConfig(lr=1.0))
    config = ScheduleConfig(name="constant", warmup_epochs=0)
    schedule = build_schedule(optimizer, config, epochs=1, steps_per_epoch=4)
    schedule.scale = 0.25
    schedule.apply(1)
    schedule.apply(2)
    assert schedule.lr == 0.25
