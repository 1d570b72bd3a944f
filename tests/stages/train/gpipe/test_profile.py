"""The profile of a chain: honest shapes, interpolation, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from chains import conv_chain, images_for
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.train.gpipe.chain import Block, Chain
from stages.train.gpipe.profile import Profile, profile_chain


def test_every_block_takes_time_in_both_directions_at_every_size():
    chain = conv_chain(depth=2)
    profile = profile_chain(chain, images_for(chain, 3), sizes=(8, 2, 8), rounds=1)
    assert profile.sizes == (2, 8)
    assert profile.names == ("stem", "blocks.0", "blocks.1", "head")
    for times in (profile.forward_s(2), profile.backward_s(8)):
        assert len(times) == 4
        assert min(times) > 0


def test_a_block_that_computes_more_is_timed_as_more():
    torch.manual_seed(0)
    small, large = nn.Linear(256, 256), nn.Sequential(*(nn.Linear(256, 256) for _ in range(24)))
    chain = Chain((Block("small", small), Block("large", large)))
    profile = profile_chain(chain, torch.randn(64, 256), sizes=(64,), rounds=3)
    assert profile.forward_s(64)[1] > 3 * profile.forward_s(64)[0]


def test_weights_gradients_statistics_and_random_streams_stay_as_they_were():
    chain = conv_chain(depth=2)
    modules = nn.ModuleList([block.module for block in chain.blocks])
    weight = chain.blocks[0].module.weight
    weight.grad = torch.full_like(weight, 3.0)
    before = {name: value.clone() for name, value in modules.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    profile_chain(chain, images_for(chain, 4), sizes=(4,), rounds=1)
    assert torch.equal(torch.rand(4), expected)
    for name, value in modules.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(weight.grad, torch.full_like(weight, 3.0))
    assert chain.blocks[1].module.conv.weight.grad is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3),
    st.floats(0.5, 100),
)
def test_interpolation_meets_what_was_measured_and_never_goes_below_zero(rows, size):
    profile = Profile(names=("a", "b"), sizes=(2, 8, 32), forward=tuple(rows), backward=tuple(rows))
    for row, measured in zip(rows, profile.sizes, strict=True):
        assert profile.forward_s(measured) == pytest.approx(row)
    for value, low, high in zip(profile.backward_s(size), *rows[1:], strict=True):
        assert value >= 0
        if 8 <= size <= 32:
            assert min(low, high) - 1e-9 <= value <= max(low, high) + 1e-9


def test_a_line_in_the_size_is_met_between_and_beyond():
    line = [tuple(0.5 + 0.25 * size for _ in range(2)) for size in (2, 8)]
    profile = Profile(names=("a", "b"), sizes=(2, 8), forward=tuple(line), backward=tuple(line))
    for size in (1, 5, 8, 40):
        assert profile.forward_s(size) == pytest.approx((0.5 + 0.25 * size,) * 2)
    assert profile.step_s(batch=8, micro_batches=4) == pytest.approx(4 * 4 * (0.5 + 0.5))
