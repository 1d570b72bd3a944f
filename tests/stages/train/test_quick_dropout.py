"""Dropout from fewer random numbers is dropout all the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.train.quick_dropout import QuickDropout, kept, quicken_dropout

PROBABILITIES = st.floats(0.01, 0.95)


@given(p=PROBABILITIES, seed=st.integers(0, 2**31))
def test_as_many_values_are_dropped_as_asked_and_the_mean_stays(p: float, seed: int) -> None:
    torch.manual_seed(seed)
    factors = kept(torch.empty(40_000), p)
    dropped = float((factors == 0).double().mean())
    assert abs(dropped - p) < 5 * (p * (1 - p) / 40_000) ** 0.5 + 2**-16
    assert factors[factors != 0].unique().numel() == 1
    assert float(factors.max()) == pytest.approx(1 / (1 - p), rel=1e-2 if p > 0.9 else 1e-3)


@given(rows=st.integers(0, 5), columns=st.integers(1, 7), p=PROBABILITIES)
def test_any_shape_keeps_its_shape_and_type(rows: int, columns: int, p: float) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.ones(rows, columns, dtype=dtype)
        answer = QuickDropout(p).train()(values)
        assert answer.shape == values.shape
        assert answer.dtype == dtype


def test_the_same_seed_drops_the_same_values() -> None:
    layer, values = QuickDropout(0.3).train(), torch.randn(64, 32)
    answers = []
    for _ in range(2):
        torch.manual_seed(5)
        answers.append(layer(values))
    assert torch.equal(*answers)
    assert not torch.equal(answers[0], layer(values))


def test_the_gradient_passes_where_values_did() -> None:
    values = torch.ones(1000, requires_grad=True)
    answer = QuickDropout(0.5).train()(values)
    answer.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, answer.detach())


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_or_everything_is_dropped_exactly(p: float) -> None:
    values = torch.randn(100)
    assert torch.equal(QuickDropout(p).train()(values), values * (1 - p))


def test_evaluation_changes_nothing() -> None:
    values = torch.randn(100)
    assert torch.equal(QuickDropout(0.5).eval()(values), values)


def test_layers_of_a_network_are_exchanged_and_others_are_not() -> None:
    network = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.1, inplace=True), nn.Dropout2d(0.1))
    before = network.state_dict()
    quicken_dropout(network)
    assert [type(layer) for layer in network] == [QuickDropout, nn.Dropout, nn.Dropout2d]
    assert network.state_dict() == before
