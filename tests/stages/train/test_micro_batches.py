"""Micro-batches: however a batch is cut, the gradient and the statistics are those of the whole."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn

from pipeline.device import CPU
from pipeline.errors import ConfigError
from stages.augment.batch import Batch, Mix
from stages.train.deferred_norm import DeferredNorms
from stages.train.gradients import WholeBatch
from stages.train.micro_batches import MicroBatches, piece_sizes, split_batch
from stages.train.precision import FP32, Precision


def batch_of(samples: int, *, mixed: bool) -> Batch:
    draw = torch.Generator().manual_seed(samples)
    mix = None
    if mixed:
        partner = torch.randperm(samples, generator=draw)
        mix = Mix(partner, torch.rand(samples, generator=draw))
    return Batch(
        torch.randn(samples, 3, 6, 6, generator=draw, dtype=torch.float64),
        torch.randint(5, (samples,), generator=draw), torch.arange(samples), mix,
    )  # fmt: skip


def without_norms() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    ).double()


def gradients_of(module: nn.Module) -> list[torch.Tensor]:
    found = [parameter.grad for parameter in module.parameters()]
    module.zero_grad()
    return [gradient for gradient in found if gradient is not None]


@given(st.integers(1, 400), st.data())
def test_sizes_differ_by_one_at_most_and_lose_no_sample(samples, data):
    sizes = piece_sizes(samples, data.draw(st.integers(1, samples)))
    assert sum(sizes) == samples
    assert min(sizes) >= max(max(sizes) - 1, 1)


def test_more_pieces_than_samples_are_an_error_with_its_mend():
    with pytest.raises(ConfigError, match=r"micro_batches: 9 .* batch of 8 .* Use at most 8"):
        split_batch(batch_of(8, mixed=False), 9)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 13), st.booleans(), st.sampled_from([0.0, 0.1]), st.data())
def test_gradient_and_loss_are_those_of_the_whole_batch(samples, mixed, smoothing, data):
    module, batch = without_norms(), batch_of(samples, mixed=mixed)
    pieces = data.draw(st.integers(1, samples))
    off = torch.amp.GradScaler("cpu", enabled=False)
    whole = WholeBatch(module, FP32, CPU, smoothing).backward(batch, off, 0)
    expected = gradients_of(module)
    found = MicroBatches(module, module, FP32, CPU, smoothing, pieces).backward(batch, off, 0)
    torch.testing.assert_close(found.double(), whole, rtol=1e-6, atol=0)  # it is told in fp32
    for mine, theirs in zip(gradients_of(module), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_formats_and_the_loss_scale_work_piece_by_piece(precision):
    module, batch = without_norms().float(), batch_of(8, mixed=True)
    batch = Batch(batch.inputs.float(), batch.targets, batch.index, batch.mix)
    choice = Precision(name=precision, reason="test")
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=precision == "fp16")
    WholeBatch(module, choice, CPU, 0.0).backward(batch, scaler, 0)
    expected = gradients_of(module)
    MicroBatches(module, module, choice, CPU, 0.0, 3).backward(batch, scaler, 0)
    for mine, theirs in zip(gradients_of(module), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.02 * float(theirs.abs().max()))


class TwiceTheSameNorm(nn.Module):
    """A norm in the first place, one that is used twice, and timm's subclass."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3, momentum=momentum)
        self.shared = nn.BatchNorm2d(3, momentum=momentum)
        self.timm = BatchNormAct2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.first(x)
        self.timm(x)
        return self.shared(2 * x) + self.shared(x + 1)


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 9), st.sampled_from([0.1, 0.7, None]), st.data())
def test_statistics_are_those_of_the_whole_batch_counted_once(samples, momentum, data):
    plain = TwiceTheSameNorm(momentum).double()
    deferred = copy.deepcopy(plain)
    norms = DeferredNorms([deferred])
    pieces = data.draw(st.integers(1, samples))
    for step in range(2):
        images = batch_of(samples, mixed=False).inputs * (step + 1)
        plain(images)
        with norms.deferred(pieces):
            for number, piece in enumerate(images.split(piece_sizes(samples, pieces))):
                norms.select(number)
                deferred(piece)
                norms.select(None)
                deferred(piece)  # a recomputation
    for name, theirs in plain.state_dict().items():
        torch.testing.assert_close(deferred.state_dict()[name], theirs, rtol=1e-12, atol=1e-12)
    assert deferred.state_dict().keys() == plain.state_dict().keys()
    assert deferred.first.momentum == momentum


def test_a_norm_that_is_frozen_stays_as_it_is():
    module = TwiceTheSameNorm(0.1).double()
    module.timm.eval()
    before = module.timm.running_mean.clone()
    norms = DeferredNorms([module])
    with norms.deferred(1):
        norms.select(0)
        module(batch_of(4, mixed=False).inputs)
    assert torch.equal(module.timm.running_mean, before)
    assert int(module.timm.num_batches_tracked) == 0
    assert int(module.first.num_batches_tracked) == 1


def failing_step(norms: DeferredNorms, module: nn.Module) -> None:
    norms.select(0)
    module(batch_of(4, mixed=False).inputs)
    norms.select(1)
    module(torch.zeros(4, 2, 6, 6, dtype=torch.float64))


def test_a_failed_step_leaves_statistics_alone():
    module = TwiceTheSameNorm(0.1).double()
    before = copy.deepcopy(module.state_dict())
    norms = DeferredNorms([module])
    with pytest.raises(RuntimeError, match="running_mean should contain"), norms.deferred(2):
        failing_step(norms, module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_one_value_per_channel_is_an_error_with_its_mend():
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)).double()
    gradients = MicroBatches(module, module, FP32, CPU, 0.0, 4)
    off = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(ConfigError, match="one value a channel.*Use fewer micro-batches"):
        gradients.backward(batch_of(4, mixed=False), off, 0)
