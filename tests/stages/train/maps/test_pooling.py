"""Max pooling in kernels of our own is torch's, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stages.train.maps.kernels import VARIABLE, isas
from stages.train.maps.pooling import QuickMaxPool2d, quicken_pooling

needs_kernels = pytest.mark.skipif(not isas(), reason="installed without a C++ compiler")


def passed(layer: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    pooled = layer(images)
    upstream = torch.arange(1.0, 1 + pooled.numel()).view_as(pooled).to(pooled.dtype)
    (gradient,) = torch.autograd.grad(pooled, images, upstream)
    return pooled, gradient


@needs_kernels
@settings(deadline=None, max_examples=80)
@given(
    channels=st.sampled_from([1, 8, 16, 32, 48, 80]),
    batch=st.integers(1, 5),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    isa=st.sampled_from(isas() or ["torch"]),
    levels=st.sampled_from([2, 1000]),
)
def test_values_and_gradients_are_torchs(
    channels: int,
    batch: int,
    height: int,
    width: int,
    window: tuple[int, int],
    dtype: torch.dtype,
    isa: str,
    levels: int,
) -> None:
    """With two levels most windows hold equal values, and the first of them takes the gradient."""
    if height < window[0] or width < window[1]:
        return
    plain = nn.MaxPool2d(window)
    network = nn.Sequential(copy.deepcopy(plain))
    assert quicken_pooling(network) == ["0"]
    draw = torch.Generator().manual_seed(height * width)
    shape = (batch, channels, height, width)
    images = torch.randint(0, levels, shape, generator=draw).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, isa)
        found = passed(network, images)
    for one, other in zip(found, passed(plain, images), strict=True):
        assert torch.equal(one, other)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_so_are_those_of_several_threads(threads: int) -> None:
    images = torch.randn(9, 32, 31, 30).contiguous(memory_format=torch.channels_last)
    plain, network = nn.MaxPool2d(2), nn.Sequential(nn.MaxPool2d(2))
    quicken_pooling(network)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = passed(network, images)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, passed(plain, images), strict=True):
        assert torch.equal(one, other)


@needs_kernels
def test_what_is_not_a_number_wins_its_window() -> None:
    images = torch.zeros(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    images[0, 3, 1, 0] = float("nan")
    network = nn.Sequential(nn.MaxPool2d(2))
    quicken_pooling(network)
    pooled = network(images)
    assert pooled[0, 3, 0, 0].isnan()
    assert int(pooled.isnan().sum()) == 1


def test_only_windows_that_do_not_overlap_are_taken() -> None:
    network = nn.Sequential(
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d((2, 3)),
        nn.MaxPool2d(16),
    )
    assert quicken_pooling(network) == ["0", "5"]
    assert isinstance(network[0], QuickMaxPool2d)


def test_too_small_maps_are_told_as_torch_tells_it() -> None:
    network = nn.Sequential(nn.MaxPool2d(4))
    quicken_pooling(network)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        network(torch.zeros(1, 16, 2, 2).contiguous(memory_format=torch.channels_last))
