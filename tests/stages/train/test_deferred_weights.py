"""Deferred gradients of weights: the same sums as in the backward pass, and not a moment before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d, linear
from torch.utils.checkpoint import checkpoint

from stages.train.deferred_weights import DeferredWeights

SIDES = st.integers(1, 4)


@st.composite
def layers(draw):
    """A linear layer or convolution, and the shape of what it takes."""
    bias = draw(st.booleans())
    if draw(st.booleans()):
        inner = draw(st.lists(SIDES, min_size=1, max_size=3))
        layer = nn.Linear(3, draw(SIDES), bias=bias)
        return layer, (*inner, 3)
    groups = draw(st.sampled_from([1, 2]))
    layer = nn.Conv2d(
        2, 4, draw(st.sampled_from([1, 3, (1, 3)])), bias=bias, groups=groups,
        stride=draw(st.sampled_from([1, 2, (2, 1)])), padding=draw(st.sampled_from([1, (0, 1)])),
        dilation=draw(st.sampled_from([1, 2])),
    )  # fmt: skip
    return layer, (draw(SIDES), 2, draw(st.integers(6, 8)), draw(st.integers(6, 8)))


def plain_grads(layer, pieces):
    layer.zero_grad()
    outputs = [layer(piece) for piece in pieces]
    for output in outputs:
        output.square().sum().backward()
    return [piece.grad for piece in pieces], [p.grad for p in layer.parameters()]


def deferred_grads(layer, pieces, later):
    """Go back and leave everything for later."""
    layer.zero_grad()
    outputs = []
    for m, piece in enumerate(pieces):
        with later.deferred():
            outputs.append(layer(piece))
        with later.collecting(m):
            outputs[-1].square().sum().backward()
    assert all(parameter.grad is None for parameter in layer.parameters())
    return outputs


def assert_same_grads(layer, shape, pieces=1, dtype=torch.float32):
    """What is deferred, and worked off in another order, is what a backward pass gives."""
    draws = [torch.randn(shape, dtype=dtype) for _ in range(pieces)]
    expected = plain_grads(layer, [draw.clone().requires_grad_() for draw in draws])
    later, inputs = DeferredWeights(), [draw.clone().requires_grad_() for draw in draws]
    outputs = deferred_grads(layer, inputs, later)
    torch.testing.assert_close([piece.grad for piece in inputs], expected[0])
    for m in reversed(range(pieces)):
        later.work_off(m)
        later.work_off(m)
    torch.testing.assert_close([p.grad for p in layer.parameters()], expected[1])
    return outputs


@given(layers(), st.integers(1, 3), st.booleans())
def test_what_is_added_later_is_what_a_backward_pass_adds(made, pieces, channels_last):
    layer, shape = made
    layer = layer.double()
    if channels_last:
        layer = layer.to(memory_format=torch.channels_last)
    assert_same_grads(layer, shape, pieces, torch.float64)
    assert all(p.grad.stride() == p.stride() for p in layer.parameters())


@pytest.mark.parametrize("layer", [nn.Linear(8, 4), nn.Conv2d(8, 4, 3)])
def test_under_autocast_products_are_short_and_gradients_long(layer):
    shape = (6, 8) if isinstance(layer, nn.Linear) else (6, 8, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        (output,) = assert_same_grads(layer, shape)
    assert output.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (2, 2, 4, 3)])
def test_what_follows_may_write_into_the_result(shape):
    assert_same_grads(nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)), shape)


class Checkpointed(nn.Module):
    """Computes its layers again in the backward pass, on its own account."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=False)


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3)])
@pytest.mark.parametrize("width", [3, 5])
def test_a_model_may_checkpoint_its_own_layers(shape, width):
    net, later = Checkpointed(width), DeferredWeights()
    draw = torch.randn(shape)
    expected = plain_grads(net, [draw.clone().requires_grad_()])
    net.zero_grad()
    piece = draw.clone().requires_grad_()
    with later.deferred():
        output = net(piece)
    with later.collecting(0):
        output.square().sum().backward()
    later.work_off(0)
    torch.testing.assert_close([piece.grad], expected[0])
    torch.testing.assert_close([p.grad for p in net.parameters()], expected[1])


class Sensitive(nn.Module):
    """Asks for a gradient in its own forward pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.layer(inner).tanh().sum(), inner)
        return self.layer(x) * slope


def test_a_gradient_that_a_block_asks_for_itself_leaves_nothing_for_later():
    assert_same_grads(Sensitive(), (4, 3))


def test_a_backward_pass_that_nobody_collects_from_gives_all_gradients_at_once():
    layer, later = nn.Linear(3, 2), DeferredWeights()
    x = torch.randn(4, 3)
    with later.deferred():
        output = layer(x)
    found = torch.autograd.grad(output.sum(), (layer.weight, layer.bias))
    torch.testing.assert_close(
        found, torch.autograd.grad(layer(x).sum(), (layer.weight, layer.bias))
    )


def test_second_derivatives_are_refused_and_not_wrong():
    layer, later = nn.Linear(3, 2), DeferredWeights()
    x = torch.randn(4, 3, requires_grad=True)
    with later.deferred():
        output = layer(x)
    (slope,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_transforms_of_functions_are_left_to_torch():
    layer, later = nn.Linear(3, 2), DeferredWeights()
    x = torch.randn(5, 4, 3)
    with later.deferred():
        found = torch.func.vmap(layer)(x)
    torch.testing.assert_close(found, layer(x))


def test_a_first_layer_whose_input_needs_no_gradient_learns_later_too():
    layer, later = nn.Linear(3, 2), DeferredWeights()
    with later.deferred():
        output = layer(torch.ones(4, 3))
    with later.collecting(0):
        output.sum().backward()
    assert layer.weight.grad is None
    later.work_off(0)
    assert torch.equal(layer.weight.grad, torch.full((2, 3), 4.0))
    assert torch.equal(layer.bias.grad, torch.full((2,), 4.0))


def frozen():
    layer = nn.Linear(3, 3)
    layer.bias.requires_grad_(False)
    return layer.weight, layer.bias


def watched():
    layer = nn.Linear(3, 3)
    layer.weight.register_hook(lambda grad: 2 * grad)
    return layer.weight, layer.bias


def computed():
    return 2 * nn.Linear(3, 3).weight, None


@pytest.mark.parametrize("weights", [frozen, watched, computed])
def test_where_more_than_an_optimizer_asks_for_the_gradient_nothing_waits(weights):
    weight, bias = weights()
    later = DeferredWeights()
    with later.deferred():
        output = linear(torch.ones(4, 3), weight, bias)
    own = "AddmmBackward0" if bias is not None else "MmBackward0"
    assert type(output.grad_fn).__name__ == own
    with later.collecting(0):
        output.sum().backward()
        assert not later.collected
    if weight.is_leaf:
        assert weight.grad is not None
        before = weight.grad.clone()
        later.work_off(0)
        assert torch.equal(weight.grad, before)


def test_a_padding_by_name_and_a_pass_without_a_graph_are_left_to_torch():
    layer, later = nn.Conv2d(2, 2, 3, padding="same"), DeferredWeights()
    images = torch.randn(1, 2, 5, 5)
    with later.deferred():
        found = layer(images)
        with torch.no_grad():
            assert not conv2d(images, layer.weight).requires_grad
    assert torch.equal(found, layer(images))


def test_after_a_step_that_failed_nothing_of_it_is_left():
    layer, later = nn.Linear(3, 2), DeferredWeights()
    with later.deferred():
        output = layer(torch.ones(4, 3))
    with later.collecting(0):
        output.sum().backward()
    later.clear()
    later.work_off(0)
    assert layer.weight.grad is None
