"""Convolutions of one pixel as matrix products are the same convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stages.train import pointwise
from stages.train.pointwise import PointwiseConv2d, multiply_pixels


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
def test_output_and_gradients_are_those_of_the_plain_convolution(stride, bias, layout, monkeypatch):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 5, 1, stride=stride, bias=bias).double()
    network = nn.Sequential(copy.deepcopy(plain))
    assert multiply_pixels(network) == ["0"]
    monkeypatch.setattr(pointwise, "computes_in_bf16", lambda images: True)
    answers = []
    for layer in (plain, network):
        images = torch.randn(3, 6, 5, 7, dtype=torch.float64, generator=torch.manual_seed(1))
        images = images.to(memory_format=layout).requires_grad_()
        answer = layer(images)
        answer.square().sum().backward()
        answers.append([answer, images.grad, *(p.grad for p in layer.parameters())])
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(16, 24), (17, 24)])
def test_so_are_those_of_patches(size, layout, monkeypatch):
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, (8, 12), stride=(8, 12)).double()
    network = nn.Sequential(copy.deepcopy(plain))
    assert multiply_pixels(network) == ["0"]
    monkeypatch.setattr(pointwise, "computes_in_bf16", lambda images: True)
    images = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=layout)
    answers = []
    for layer in (plain, network):
        answer = layer(images)
        answer.square().sum().backward()
        answers.append([answer, *(p.grad for p in layer.parameters())])
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other)


def test_only_plain_convolutions_of_one_pixel_are_changed_and_the_state_stays():
    network = nn.Sequential(
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 8, 1, stride=2, bias=False),
        nn.Conv2d(4, 8, 4, stride=4),
    )
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert multiply_pixels(network) == ["0", "4"]
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_under_autocast_the_answer_is_near_that_of_fp32():
    """Where there are no bf16 units, this is torch's own convolution."""
    torch.manual_seed(0)
    plain = nn.Conv2d(32, 16, 1)
    network = nn.Sequential(copy.deepcopy(plain))
    multiply_pixels(network)
    images = torch.randn(4, 32, 6, 6).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images)
    assert isinstance(network[0], PointwiseConv2d)
    assert found.dtype == torch.bfloat16
    with torch.no_grad():
        expected = plain(images)
        assert float((found - expected).norm() / expected.norm()) < 0.02


def test_in_fp32_and_in_evaluation_nothing_changes():
    plain = nn.Conv2d(8, 8, 1)
    network = nn.Sequential(copy.deepcopy(plain))
    multiply_pixels(network)
    images = torch.randn(2, 8, 4, 4)
    assert torch.equal(network(images), plain(images))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(images), plain(images))
