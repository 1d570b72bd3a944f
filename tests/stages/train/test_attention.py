"""Attention as matrix products: what the kernel computes, forward and backward, only sooner."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pipeline.device import CPU
from stages.train.attention import MOST_TOKENS, attend
from stages.train.precision import resolve_precision

TOKENS, KEYS, WIDTH = 9, 12, 16


def tensors(tokens=TOKENS, keys=KEYS):
    torch.manual_seed(0)
    shapes = ((2, 3, tokens, WIDTH), (2, 3, keys, WIDTH), (2, 3, keys, WIDTH))
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def results(function, *, keys=KEYS, **settings):
    """The answer and the three gradients, in fp32."""
    given = tensors(keys=keys)
    answer = function(*given, **settings)
    answer.float().square().sum().backward()
    return [answer.detach().float(), *(tensor.grad for tensor in given)]


MASKS = {
    "no mask": {},
    "booleans": {"attn_mask": torch.rand(TOKENS, KEYS, generator=torch.manual_seed(1)) > 0.3},
    "numbers": {"attn_mask": torch.randn(TOKENS, KEYS, generator=torch.manual_seed(2))},
    "causal": {"is_causal": True, "keys": TOKENS},
    "own scale": {"scale": 0.5},
}


@pytest.mark.parametrize("settings", MASKS.values(), ids=MASKS.keys())
def test_it_is_attention_within_the_rounding_of_bf16(settings):
    expected = results(scaled_dot_product_attention, **settings)
    for one, other in zip(expected, results(attend, **settings), strict=True):
        assert (one - other).abs().max() < 0.03 * one.abs().max()


def test_dropout_takes_a_share_of_the_weights_and_keeps_the_mean():
    torch.manual_seed(0)
    query, key = torch.zeros(1, 64, WIDTH), torch.zeros(1, 400, WIDTH)
    answer = attend(query, key, torch.ones(1, 400, 1), dropout_p=0.5).float()
    assert answer.std() > 0
    assert float(answer.mean()) == pytest.approx(1.0, abs=0.05)


def calls_of_the_kernel(tokens=TOKENS):
    with torch.profiler.profile() as profile, resolve_precision("bf16", CPU).autocast(CPU):
        scaled_dot_product_attention(*tensors(tokens, tokens))
    return [event.name for event in profile.events() if "flash_attention" in event.name]


@pytest.mark.parametrize("units", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_training_in_bf16_avoids_the_kernel_where_there_are_units(units, monkeypatch):
    kinds = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for kind in kinds:
        monkeypatch.setattr(torch.cpu, kind, lambda has=kind == units: has)
    assert not calls_of_the_kernel()
    assert calls_of_the_kernel(MOST_TOKENS + 1)
    with torch.no_grad():
        assert calls_of_the_kernel()
    monkeypatch.setattr(torch.cpu, units, lambda: False)
    assert calls_of_the_kernel()
