"""Weight gradients in wide rows are the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.train.small_maps import (
    LEAST_IMAGES,
    ROW,
    SmallMapConv2d,
    _Convolution,
    images_in_a_row,
    quicken_small_maps,
)


@given(batch=st.integers(1, 300), width=st.integers(1, 60), gap=st.integers(1, 3))
def test_the_batch_divides_into_whole_rows_that_fit(batch: int, width: int, gap: int) -> None:
    count = images_in_a_row(batch, width, gap)
    assert count >= 1
    assert batch % count == 0
    assert count == 1 or count * (width + gap) <= ROW


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "count"),
    [(7, 3, 4), (4, 3, 6), (5, 5, 4), (1, 3, 12), (7, 3, 0), (2, 3, 0), (5, 5, 0), (1, 3, 0)],
)
def test_both_gradients_are_those_of_the_plain_convolution(
    size: int, kernel: int, count: int, product: bool
) -> None:
    torch.manual_seed(0)
    gap = kernel // 2
    images = torch.randn(12, 3, size, size + 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    plain = nn.functional.conv2d(images, weight, padding=gap)
    wide = _Convolution.apply(images, weight, gap, 1, count, product)
    torch.testing.assert_close(plain, wide)
    upstream = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (images, weight), upstream)
    found = torch.autograd.grad(wide, (images, weight), upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (7, 3), (2, 3), (1, 3), (6, 5)])
def test_patches_give_the_gradients_of_a_convolution_with_a_stride(
    size: int, kernel: int, product: bool
) -> None:
    torch.manual_seed(0)
    gap = kernel // 2
    images = torch.randn(4, 3, size, size + 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    plain = nn.functional.conv2d(images, weight, stride=2, padding=gap)
    found = _Convolution.apply(images, weight, gap, 2, 0, product)
    torch.testing.assert_close(plain, found)
    upstream = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (images, weight), upstream)
    for one, other in zip(
        torch.autograd.grad(found, (images, weight), upstream), expected, strict=True
    ):
        torch.testing.assert_close(one, other)


def test_only_convolutions_that_can_gain_are_changed_and_the_state_stays() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, stride=3, bias=False),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
    )
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert quicken_small_maps(network) == ["0"]
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_under_autocast_the_gradient_is_near_that_of_fp32() -> None:
    """Where there are no bf16 units, this is torch's own convolution."""
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    network = nn.Sequential(copy.deepcopy(plain))
    assert quicken_small_maps(network) == ["0"]
    images = torch.randn(4 * LEAST_IMAGES, 16, 7, 7)
    plain(images).square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(images).float().square().sum()
    loss.backward()
    assert isinstance(network[0], SmallMapConv2d)
    found, expected = network[0].weight.grad, plain.weight.grad
    assert found is not None
    assert expected is not None
    error = (found - expected).norm() / expected.norm()
    assert float(error) < 0.02
