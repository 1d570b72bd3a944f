"""Batch norm in kernels of our own is torch's: outputs, gradients, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn

from stages.train.deferred_norm import DeferredNorms
from stages.train.maps.batch_norm import (
    NormedSequential,
    QuickBatchNorm2d,
    QuickBatchNormAct2d,
    quicken_norms,
)
from stages.train.maps.kernels import VARIABLE, isas

needs_kernels = pytest.mark.skipif(not isas(), reason="installed without a C++ compiler")
EXACT = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(params=[*isas(), "torch"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def maps_of(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=draw, dtype=torch.float64) * 2 + 3
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def norm_relu(channels: int, *, affine: bool = True, momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(channels, affine=affine, momentum=momentum)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    return nn.Sequential(norm, nn.ReLU(inplace=True))


def passed(
    network: nn.Module, images: torch.Tensor, where: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Return output, gradients and running statistics of one step of training.

    Gradients come back from all values, or those `where` it is true.
    """
    images = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    answer = network(images)
    upstream = maps_of(*answer.shape, dtype=answer.dtype, seed=7) - 3
    if where is not None:
        upstream = upstream * where
    gradients = torch.autograd.grad(answer, (images, *network.parameters()), upstream)
    return [answer, *gradients, *network.buffers()]


@needs_kernels
@settings(deadline=None, max_examples=60)
@given(
    channels=st.sampled_from([1, 3, 8, 16, 24, 32, 48, 64, 96, 128, 200, 512]),
    batch=st.sampled_from([1, 2, 3, 8, 64]),
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    affine=st.booleans(),
    momentum=st.sampled_from([0.1, 1.0, None]),
)
def test_a_step_is_that_of_float64(
    channels: int, batch: int, height: int, width: int, affine: bool, momentum: float | None
) -> None:
    assume(batch * height * width >= 8)  # of fewer, some are nearly equal and gradients cancel
    plain = norm_relu(channels, affine=affine, momentum=momentum)
    quick = copy.deepcopy(plain)
    assert quicken_norms(quick) == ["0"]
    images = maps_of(batch, channels, height, width)
    exact = plain.double()
    normed = copy.deepcopy(exact[0])(images.double())
    clear = normed.abs() > 1e-5  # of others, rounding decides what the ReLU lets pass
    expected = passed(exact, images.double(), clear)
    for one, other in zip(passed(quick, images, clear), expected, strict=True):
        torch.testing.assert_close(one.to(other.dtype), other, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    "shape", [(4, 64, 6, 6), (8, 24, 5, 4), (2, 256, 40, 41), (64, 32, 28, 28)]
)
@pytest.mark.parametrize("relu", [True, False])
def test_a_step_in_bf16_is_as_near_to_the_exact_one_as_torchs(
    isa: str, shape: tuple[int, ...], relu: bool
) -> None:
    plain = norm_relu(shape[1])
    plain = plain if relu else nn.Sequential(plain[0])
    images = maps_of(*shape, dtype=torch.bfloat16)
    quick, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    quicken_norms(quick)
    expected = passed(exact, images.double())
    for ours, torchs, right in zip(
        passed(quick, images), passed(plain, images), expected, strict=True
    ):
        assert ours.dtype == torchs.dtype
        ours_off, torchs_off = ((each - right).double().norm() for each in (ours, torchs))
        assert ours_off <= 1.1 * torchs_off + 1e-4 * right.double().norm()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 32, 28, 28), (4, 192, 30, 31), (6, 512, 7, 7)])
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, threads = maps_of(*shape, dtype=dtype), torch.get_num_threads()
    answers = []
    try:
        for name in isas():
            for num in (1, 2, 3):
                monkeypatch.setenv(VARIABLE, name)
                torch.set_num_threads(num)
                network = norm_relu(shape[1])
                quicken_norms(network)
                answers.append(passed(network, images))
    finally:
        torch.set_num_threads(threads)
    for answer in answers[1:]:
        assert all(torch.equal(one, other) for one, other in zip(answer, answers[0], strict=True))


def test_far_from_zero_the_variance_keeps_its_digits(isa: str) -> None:
    """The difference of two squares of 1e4 would have none left."""
    network = nn.Sequential(nn.BatchNorm2d(64, momentum=1.0))
    quicken_norms(network)
    images = 1e4 + maps_of(8, 64, 9, 9)
    network(images)
    exact = images.double().var(dim=(0, 2, 3))
    torch.testing.assert_close(network[0].running_var.double(), exact, atol=0, rtol=1e-4)


def test_what_is_not_a_number_stays_so_and_in_its_channel(isa: str) -> None:
    network = norm_relu(64)
    quicken_norms(network)
    images = maps_of(2, 64, 4, 4)
    images[0, 5, 1, 1] = float("nan")
    answer = network(images)
    assert answer[:, 5].isnan().all()
    assert answer[:, :5].isfinite().all()
    assert answer[:, 6:].isfinite().all()


def test_equal_values_have_no_variance_and_no_gradient(isa: str) -> None:
    network = nn.Sequential(nn.BatchNorm2d(64))
    quicken_norms(network)
    images = torch.full((2, 64, 4, 4), 3.25).contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    answer = network(images)
    assert answer.abs().max() < 1e-3
    (gradient,) = torch.autograd.grad(answer, images, torch.ones_like(answer))
    assert gradient.abs().max() < 1e-3


def test_frozen_weights_get_no_gradient_and_the_rest_is_as_before() -> None:
    network = norm_relu(64)
    quicken_norms(network)
    for weight in network.parameters():
        weight.requires_grad_(False)
    images = maps_of(2, 64, 4, 4).requires_grad_()
    network(images).sum().backward()
    assert images.grad is not None
    assert all(weight.grad is None for weight in network.parameters())


def test_the_state_stays_and_only_plain_norms_are_changed() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(4), nn.ReLU(), nn.SyncBatchNorm(4), BatchNormAct2d(4), nn.BatchNorm1d(4)
    )
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert quicken_norms(network) == ["0", "3"]
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert isinstance(network, NormedSequential)


def test_in_evaluation_it_is_torchs_layer_to_the_bit() -> None:
    plain = norm_relu(64).eval()
    quick = copy.deepcopy(plain)
    quicken_norms(quick)
    images = maps_of(2, 64, 5, 5)
    assert torch.equal(quick(images), plain(images))


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("apply_act", [True, False])
def test_timms_norm_with_an_activation_is_the_same(
    isa: str, act: type[nn.Module], apply_act: bool
) -> None:
    plain = BatchNormAct2d(64, act_layer=act, apply_act=apply_act)
    quick = nn.Sequential(copy.deepcopy(plain))
    assert quicken_norms(quick) == ["0"]
    assert isinstance(quick[0], QuickBatchNormAct2d)
    images = maps_of(4, 64, 5, 5)
    for one, other in zip(passed(quick, images), passed(plain, images), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_a_hooked_layer_sees_what_it_would_have_seen() -> None:
    network = norm_relu(64)
    quicken_norms(network)
    images, seen = maps_of(2, 64, 4, 4), []
    together = network(images)
    with network[0].register_forward_hook(lambda layer, args, output: seen.append(output.clone())):
        apart = network(images)
    torch.testing.assert_close(apart, together)
    assert seen[0].min() < 0
    with network[1].register_forward_hook(lambda layer, args, output: seen.append(output.clone())):
        network(images)
    assert torch.equal(seen[1], together)


def test_deferred_statistics_are_those_of_torchs_layer(isa: str) -> None:
    """GPipe's pieces exchange a layer's buffers under it."""
    found = []
    for quick in (True, False):
        network = norm_relu(64)
        if quick:
            quicken_norms(network)
        norms = DeferredNorms([network])
        with norms.deferred(pieces=2):
            for piece in range(2):
                norms.select(piece)
                network(maps_of(3, 64, 4, 4, seed=piece))
        found.append(list(network.buffers()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_one_value_a_channel_is_told_as_torch_tells_it(isa: str) -> None:
    network = norm_relu(64)
    quicken_norms(network)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(maps_of(1, 64, 1, 1))


def test_copies_and_pickled_layers_are_of_the_same_kind() -> None:
    network = norm_relu(64)
    quicken_norms(network)
    twin = copy.deepcopy(network)
    assert isinstance(twin, NormedSequential)
    assert isinstance(twin[0], QuickBatchNorm2d)


@needs_kernels
def test_torch_export_sees_the_plain_operators() -> None:
    network = norm_relu(64)
    quicken_norms(network)
    program = torch.export.export(network.train(), (maps_of(2, 64, 4, 4),))
    assert "batch_norm" in str(program.graph)
