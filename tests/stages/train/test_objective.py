"""The loss equals the textbook's, mixed and smoothed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.augment.batch import Mix
from stages.train.objective import objective

N, K = 6, 4


def by_hand(logits, targets, mix, smoothing):
    """Cross-entropy against the blended, smoothed one-hot label."""
    label = torch.nn.functional.one_hot(targets, K).double()
    if mix is not None:
        weight = mix.weight.double()[:, None]
        label = weight * label + (1 - weight) * label[mix.partner]
    label = (1 - smoothing) * label + smoothing / K
    return -(label * logits.double().log_softmax(1)).sum(1).mean()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), smoothing=st.floats(0, 0.9), mixed=st.booleans())
def test_it_is_the_cross_entropy_with_the_blended_and_smoothed_label(seed, smoothing, mixed):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, K, generator=draw) * 3
    targets = torch.randint(0, K, (N,), generator=draw)
    mix = None
    if mixed:
        mix = Mix(torch.randperm(N, generator=draw), torch.rand(N, generator=draw))
    loss = objective(logits, targets, mix, smoothing)
    assert float(loss) == pytest.approx(float(by_hand(logits, targets, mix, smoothing)), rel=1e-5)


def test_half_precision_logits_are_judged_in_fp32():
    logits = torch.randn(N, K).bfloat16()
    targets = torch.arange(N) % K
    loss = objective(logits, targets, None, 0.0)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(by_hand(logits, targets, None, 0.0)), rel=1e-5)
