"""The fast feedforward layer: one path through each tree, the same in every form."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.train.fff.layer import FFF
from stages.train.fff.penalties import collected_penalties
from stages.train.fff.tree import nodes_of

LAYERS = {
    "depth": st.integers(0, 4),
    "trees": st.integers(1, 3),
    "bias": st.booleans(),
    "dense_width": st.sampled_from([0, 3]),
}


def layer_of(**settings):
    torch.manual_seed(0)
    return FFF(5, 4, **settings).double()


def reference(layer, x):
    """Walk each tree token by token, as the paper says it."""
    answers = []
    for token in x:
        total = torch.zeros(4, dtype=x.dtype) if layer.b_out is None else layer.b_out
        for tree in range(layer.trees):
            place = 0
            for _ in range(layer.depth + 1):
                node = tree * nodes_of(layer.depth) + place
                logit = layer.w_in[node] @ token
                if layer.b_in is not None:
                    logit = logit + layer.b_in[node]
                total = total + layer.activation(logit) * layer.w_out[node]
                place = 2 * place + (2 if logit > 0 else 1)
        answers.append(total if layer.dense is None else total + layer.dense(token))
    return torch.stack(answers) if answers else x.new_zeros(0, 4)


def gradients(layer, x):
    x = x.clone().requires_grad_()
    answer = layer(x)
    answer.square().sum().backward()
    return [answer.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


@given(st.fixed_dictionaries(LAYERS), st.integers(0, 17))
def test_every_form_gives_what_a_walk_token_by_token_gives(settings, tokens):
    x = torch.randn(tokens, 5, dtype=torch.float64)
    layer = layer_of(**settings)
    expected = reference(layer, x)
    for form in ("gathered", "masked"):
        layer.form = form
        for mode in (True, False):
            torch.testing.assert_close(layer.train(mode)(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), expected)


@given(st.fixed_dictionaries(LAYERS), st.integers(1, 17))
def test_gradients_of_gathered_rows_are_those_of_the_masked_dense_layer(settings, tokens):
    x = torch.randn(tokens, 5, dtype=torch.float64)
    gathered = layer_of(**settings, form="gathered")
    masked = copy.deepcopy(gathered)
    masked.form = "masked"
    for one, other in zip(gradients(gathered, x), gradients(masked, x), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_those_of_finite_differences():
    layer = layer_of(depth=2, trees=2, activation=nn.Tanh(), form="gathered")
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize("form", ["gathered", "masked"])
def test_a_logit_of_zero_or_nan_goes_left(form):
    layer = layer_of(depth=1, activation=nn.Identity(), bias=False, form=form)
    with torch.no_grad():
        layer.w_in.zero_()
        layer.w_in[1:] = 1.0
        layer.w_out.zero_()
        layer.w_out[1], layer.w_out[2] = 10.0, 100.0
    assert layer(torch.ones(1, 5).double())[0, 0] == 50
    layer.activation = nn.ReLU()
    assert layer(torch.full((1, 5), torch.nan).double()).shape == (1, 4)


def test_leading_dimensions_and_strides_are_of_no_matter():
    layer = layer_of(depth=3)
    x = torch.randn(5, 3, 2, dtype=torch.float64).permute(1, 2, 0)
    expected = reference(layer, x.reshape(-1, 5)).view(3, 2, 4)
    torch.testing.assert_close(layer(x), expected)


def test_mixing_becomes_the_hard_path_as_decisions_become_certain():
    layer = layer_of(depth=3, activation=nn.Identity(), bias=False, hardening=1.0)
    x = torch.randn(7, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.w_in *= 1e4
    with collected_penalties() as penalties:
        torch.testing.assert_close(layer.train()(x), layer.eval()(x))
    assert penalties.terms[0].item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("form", ["gathered", "masked"])
def test_learning_by_the_penalty_alone_spreads_tokens_over_the_leaves(form):
    torch.manual_seed(0)
    layer = FFF(5, 4, depth=3, form=form, balance=1.0)
    with torch.no_grad():
        layer.b_in += 2.0  # nearly all go right
    x = torch.randn(256, 5)
    optimizer = torch.optim.Adam([layer.w_in, layer.b_in], 0.05)
    terms = []
    for _ in range(60):
        with collected_penalties() as penalties:
            layer(x)
        optimizer.zero_grad()
        penalties.added_to(torch.zeros(())).backward()
        optimizer.step()
        terms.append(float(penalties.terms[0].detach()))
    assert terms[0] > 0.2
    assert terms[-1] < 0.02


def test_without_a_listener_or_a_penalty_nothing_is_collected():
    layer = FFF(5, 4, depth=2)
    with collected_penalties() as penalties:
        layer(torch.randn(3, 5))
    assert penalties.terms == []
    loss = torch.ones(())
    assert penalties.added_to(loss) is loss
