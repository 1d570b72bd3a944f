"""Convolutions whose weight gradients come in another way have the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stages.train.bf16_units import has_amx, has_bf16_units
from stages.train.convolution import (
    By,
    QuickConv2d,
    Way,
    _Convolution,
    quicken_convolutions,
    way_of,
)
from stages.train.maps.kernels import VARIABLE, isas
from stages.train.small_maps import images_in_a_row

WAYS = [Way(by, product) for by in (By.TORCH, By.ROWS, By.PATCHES) for product in (False, True)]


def assert_same(size: int, kernel: int, batch: int, stride: int, way: Way) -> None:
    """Compare the convolution and both its gradients, computed in that way, with torch's."""
    torch.manual_seed(0)
    gap = kernel // 2
    images = torch.randn(batch, 3, size, size + 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    plain = nn.functional.conv2d(images, weight, stride=stride, padding=gap)
    other = _Convolution.apply(images, weight, gap, stride, way)
    torch.testing.assert_close(plain, other)
    upstream = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (images, weight), upstream)
    found = torch.autograd.grad(other, (images, weight), upstream)
    for one, right in zip(found, expected, strict=True):
        torch.testing.assert_close(one, right)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(("size", "kernel"), [(7, 3), (4, 3), (5, 5), (2, 3), (1, 3)])
def test_both_gradients_are_those_of_the_plain_convolution(
    size: int, kernel: int, way: Way
) -> None:
    assert images_in_a_row(12, size + 1, kernel // 2) > 1
    assert_same(size, kernel, 12, 1, way)


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (7, 3), (2, 3), (1, 3), (6, 5)])
def test_patches_give_the_gradients_of_a_convolution_with_a_stride(
    size: int, kernel: int, product: bool
) -> None:
    assert_same(size, kernel, 4, 2, Way(By.PATCHES, product))


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
    assert quicken_convolutions(network) == ["0"]
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kernels", ["", "torch"])
@pytest.mark.parametrize(
    ("shape", "outputs", "stride"),
    [
        ((12, 16, 7, 7), 16, 1),
        ((6, 32, 9, 7), 48, 1),
        ((5, 64, 8, 5), 16, 2),
        ((2, 512, 2, 2), 512, 1),
        ((4, 128, 6, 6), 128, 1),
        ((4, 24, 3, 1), 24, 2),
    ],
)
def test_under_autocast_gradients_are_near_those_of_fp32(
    shape: tuple[int, ...],
    outputs: int,
    stride: int,
    kernels: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where there are no bf16 units, this is torch's own convolution."""
    monkeypatch.setenv(VARIABLE, kernels)
    torch.manual_seed(0)
    plain = nn.Conv2d(shape[1], outputs, 3, padding=1, stride=stride, bias=False)
    network = nn.Sequential(copy.deepcopy(plain))
    assert quicken_convolutions(network) == ["0"]
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    expected = torch.autograd.grad(_loss(plain, images.requires_grad_()), [images, plain.weight])
    with torch.autocast("cpu", torch.bfloat16):
        loss = _loss(network, images)
    assert isinstance(network[0], QuickConv2d)
    found = torch.autograd.grad(loss, [images, network[0].weight])
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.02


def _loss(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    answer: torch.Tensor = network(images)
    return answer.float().square().sum()


@pytest.mark.skipif("avx512_bf16" not in isas() or has_amx(), reason="needs AVX-512 and no AMX")
def test_with_dot_products_a_kernel_of_our_own_computes_the_weight_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.randn(8, 64, 14, 14, dtype=torch.bfloat16)
    images = images.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, dtype=torch.bfloat16)
    assert way_of(images, weight, 1) == Way(By.KERNEL)
    assert way_of(images[:1], weight, 1).by is By.TORCH
    monkeypatch.setenv(VARIABLE, "torch")
    assert way_of(images, weight, 1) == Way(By.TORCH)


@pytest.mark.skipif(not has_bf16_units(), reason="needs bf16 units")
def test_a_column_of_pixels_is_not_left_to_torch_with_a_stride() -> None:
    column = torch.randn(8, 24, 4, 1, dtype=torch.bfloat16)
    weight = torch.randn(24, 24, 3, 3, dtype=torch.bfloat16)
    assert way_of(column, weight, 2).by is By.PATCHES
