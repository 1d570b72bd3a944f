"""Fused kernels: the same update whatever order of axes a weight and its gradient lie in."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.device import CPU
from stages.train.config import OptimizerConfig
from stages.train.fused import quick_update
from stages.train.optim import build_optimizer

FORMATS = (torch.contiguous_format, torch.channels_last)


def conv() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3), torch.nn.Conv2d(6, 2, 1))


def weights_after(module, name, gradients, *, fused):
    optimizer = build_optimizer(module, OptimizerConfig(name=name, lr=0.1))
    for group in optimizer.param_groups:
        group["fused"] = fused
    update = quick_update(optimizer, CPU) if fused else optimizer.step
    for step in gradients:
        for weight, gradient in zip(module.parameters(), step, strict=True):
            weight.grad = gradient
        update()
    return [weight.detach().clone() for weight in module.parameters()]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "nesterov", "adagrad"])
@pytest.mark.parametrize("weights_in", FORMATS)
@pytest.mark.parametrize("gradients_in", FORMATS)
def test_the_update_depends_on_no_memory_format(name, weights_in, gradients_in):
    torch.manual_seed(0)
    plain = conv()
    fused = copy.deepcopy(plain).to(memory_format=weights_in)
    steps = [[torch.randn_like(weight) for weight in plain.parameters()] for _ in range(3)]
    laid = [
        [g.to(memory_format=gradients_in) if g.ndim == 4 else g for g in step] for step in steps
    ]
    expected = weights_after(plain, name, steps, fused=False)
    found = weights_after(fused, name, laid, fused=True)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", [torch.randn(2, 3).t(), torch.randn(3, 1).expand(3, 2)])
def test_a_gradient_that_is_a_view_reaches_the_elements_it_is_of(gradient):
    plain = torch.nn.Linear(2, 3, bias=False)
    fused = copy.deepcopy(plain)
    expected = weights_after(plain, "sgd", [[gradient.contiguous()]], fused=False)
    torch.testing.assert_close(weights_after(fused, "sgd", [[gradient]], fused=True), expected)


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
def test_a_weight_that_is_freed_later_has_momentum_from_then_on(name):
    torch.manual_seed(0)
    plain = conv()
    fused = copy.deepcopy(plain)
    steps = [[torch.randn_like(weight) for weight in plain.parameters()] for _ in range(4)]
    steps[0][0] = steps[0][1] = steps[1][0] = None
    expected = weights_after(plain, name, steps, fused=False)
    torch.testing.assert_close(weights_after(fused, name, steps, fused=True), expected)


@given(
    st.sampled_from(["adamw", "adam", "adagrad"]),
    st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=2, max_size=5),
    st.integers(0, 4),
)
def test_it_does_what_the_optimizer_does_to_the_bit_whatever_is_frozen(name, frozen, reloaded_at):
    torch.manual_seed(0)
    modules = [conv()]
    modules.append(copy.deepcopy(modules[0]))
    config = OptimizerConfig(name=name, lr=0.1, weight_decay=0.1)
    theirs, ours = (build_optimizer(module, config) for module in modules)
    update = quick_update(ours, CPU)
    for number, without in enumerate(frozen):
        if number == reloaded_at:
            ours.load_state_dict(copy.deepcopy(ours.state_dict()))
        for position, weights in enumerate(zip(*(m.parameters() for m in modules), strict=True)):
            gradient = None if position in without else torch.randn_like(weights[0])
            for weight in weights:
                weight.grad = gradient
        for group in (*ours.param_groups, *theirs.param_groups):
            group["lr"] = 0.1 / (number + 1)
        theirs.step()
        update()
    for one, other in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(theirs.state.values(), ours.state.values(), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one if one[key] is not None)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_no_gradient_is_copied_that_lies_as_its_weight_does(name):
    module = conv().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(module, OptimizerConfig(name=name))
    update = quick_update(optimizer, CPU)
    for weight in module.parameters():
        weight.grad = torch.randn_like(weight)
    with torch.profiler.profile() as profile:
        update()
        update()
    assert "aten::clone" not in {event.name for event in profile.events()}


def test_an_optimizer_without_a_fused_kernel_steps_by_itself():
    optimizer = build_optimizer(conv(), OptimizerConfig(name="lion"))
    assert quick_update(optimizer, CPU) == optimizer.step
