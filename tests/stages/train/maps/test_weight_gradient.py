"""The weight gradient in a kernel of our own is torch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.train.maps.kernels import VARIABLE, isas
from stages.train.maps.weight_gradient import has_kernel_for, weight_gradient

needs_kernel = pytest.mark.skipif("avx512_bf16" not in isas(), reason="needs AVX-512 with bf16")


def maps_of(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=draw).bfloat16()
    return values.contiguous(memory_format=torch.channels_last)


def exact(gradient: torch.Tensor, images: torch.Tensor, stride: int) -> torch.Tensor:
    shape = (gradient.shape[1], images.shape[1], 3, 3)
    found: torch.Tensor = torch.nn.grad.conv2d_weight(  # type: ignore[no-untyped-call]
        images.double(), shape, gradient.double(), stride=stride, padding=1
    )
    return found


def on_threads(
    threads: int, gradient: torch.Tensor, images: torch.Tensor, stride: int
) -> torch.Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return weight_gradient(gradient, images, stride)
    finally:
        torch.set_num_threads(before)


@needs_kernel
@settings(deadline=None)
@given(
    num=st.integers(2, 9),
    inputs=st.sampled_from([32, 64, 96, 256]),
    outputs=st.sampled_from([16, 32, 48, 128]),
    height=st.integers(1, 12),
    width=st.one_of(st.integers(1, 12), st.sampled_from([31, 200])),
    stride=st.sampled_from([1, 2]),
    threads=st.integers(1, 3),
)
def test_it_is_that_of_float64_rounded_once(
    num: int, inputs: int, outputs: int, height: int, width: int, stride: int, threads: int
) -> None:
    images = maps_of(num, inputs, height, width)
    gradient = maps_of(num, outputs, -(-height // stride), -(-width // stride), seed=1)
    found = on_threads(threads, gradient, images, stride)
    right = exact(gradient, images, stride)
    assert found.shape == right.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    size = float(right.abs().max())  # sums of values that cancel are rounded as the largest are
    torch.testing.assert_close(found.double(), right, rtol=2**-8, atol=1e-5 * size)


@needs_kernel
@pytest.mark.parametrize("shape", [(16, 32, 28, 28), (9, 128, 15, 14), (8, 512, 7, 7)])
def test_every_number_of_threads_gives_the_same_bits(shape: tuple[int, ...]) -> None:
    images, gradient = maps_of(*shape), maps_of(shape[0], 64, *shape[2:], seed=1)
    found = [on_threads(threads, gradient, images, 1) for threads in (1, 2, 3)]
    assert all(torch.equal(found[0], other) for other in found[1:])


@needs_kernel
def test_a_gradient_in_another_layout_is_the_same() -> None:
    images, gradient = maps_of(4, 32, 6, 5), maps_of(4, 16, 6, 5, seed=1)
    found = weight_gradient(gradient.contiguous(), images, 1)
    assert torch.equal(found, weight_gradient(gradient, images, 1))


@needs_kernel
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_reaches_the_weights_that_saw_it_and_no_others(bad: float) -> None:
    images, gradient = maps_of(4, 32, 6, 5), maps_of(4, 16, 6, 5, seed=1)
    images[1, 3, 0, 0] = bad  # a corner: nothing beyond it sees it
    finite = weight_gradient(gradient, images, 1).isfinite()
    assert not finite[:, 3, :2, :2].any()
    assert finite[:, 3, 2].all()
    assert finite[:, 3, :, 2].all()
    assert finite[:, [channel for channel in range(32) if channel != 3]].all()


@pytest.mark.parametrize(
    ("shape", "weight"),
    [
        ((2, 24, 6, 6), (16, 24, 3, 3)),
        ((2, 32, 6, 6), (24, 32, 3, 3)),
        ((2, 32, 6, 6), (16, 32, 5, 5)),
        ((1, 32, 6, 6), (16, 32, 3, 3)),
        ((0, 32, 6, 6), (16, 32, 3, 3)),
    ],
)
def test_what_the_kernel_does_not_take_is_left_to_others(
    shape: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    assert not has_kernel_for(maps_of(*shape), torch.zeros(weight))


def test_other_formats_and_layouts_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    images, weight = maps_of(2, 32, 6, 6), torch.zeros(16, 32, 3, 3)
    assert not has_kernel_for(images.float(), weight)
    assert not has_kernel_for(images.contiguous(), weight)
    assert has_kernel_for(images, weight) == ("avx512_bf16" in isas())
    for name in {*isas(), "torch"} - {"avx512_bf16"}:
        monkeypatch.setenv(VARIABLE, name)
        assert not has_kernel_for(images, weight)
