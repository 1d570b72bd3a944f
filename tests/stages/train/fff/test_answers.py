"""Tensors that the native kernel reads and makes without torch's help are tensors as any other."""

from __future__ import annotations

import copy
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from stages.train.fff import cmm
from stages.train.fff.inference import PackedFFF
from tests.stages.train.fff.small_layers import layer_of, needs_native, tokens_of

pytestmark = needs_native


@pytest.fixture
def packed() -> PackedFFF:
    return PackedFFF(layer_of(32, 16, 4, 2))


def test_tokens_in_any_form_have_the_same_outputs(packed: PackedFFF):
    wide = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    x = wide[:, :32].contiguous()
    with torch.no_grad():
        want = packed(x)
        forms = {
            "a view at an offset": (x[3:7], want[3:7]),
            "one row of a wider matrix": (wide[5:6, :32], want[5:6]),
            "rows of a wider matrix": (wide[:, :32], want),
            "three dimensions": (x.view(3, 4, 32), want.view(3, 4, 16)),
            "seven dimensions": (x.view(1, 3, 1, 2, 1, 2, 32), want.view(1, 3, 1, 2, 1, 2, 16)),
            "transposed dimensions": (
                x.view(3, 4, 32).transpose(0, 1),
                want.view(3, 4, 16).transpose(0, 1),
            ),
            "one repeated": (x[:1].expand(2, 3, 32), want[:1].expand(2, 3, 16)),
            "one dimension": (x[2], want[2]),
            "a parameter": (nn.Parameter(x), want),
            "one that wants a gradient": (x.clone().requires_grad_(), want),
            "no tokens": (x[:0], want[:0]),
            "no tokens of many": (x[:0].view(0, 3, 32), want[:0].view(0, 3, 16)),
        }
        for name, (tokens, outputs) in forms.items():
            answers = packed(tokens)
            assert torch.equal(answers, outputs), name
            assert answers.is_contiguous(), name
        assert packed(x.double()).dtype is torch.float64
    with torch.inference_mode():
        assert torch.equal(packed(x), want)


def test_outputs_are_tensors_as_any_other(packed: PackedFFF):
    x = torch.randn(5, 32)
    out, again = packed(x), packed(x)
    assert (out.dtype, out.shape, out.stride()) == (torch.float32, (5, 16), (16, 1))
    assert not out.requires_grad
    assert out.data_ptr() % 64 == 0
    kept = out.clone()
    again.mul_(2)
    del packed
    assert torch.equal(out, kept)
    assert torch.equal(again, 2 * kept)
    assert (out.numpy() == kept.numpy()).all()
    assert torch.equal(copy.deepcopy(out), kept)
    out.requires_grad_().sum().backward()
    assert out.grad is not None


def test_their_memory_is_given_back():
    layer = layer_of(32, 4096, 1, 1)
    packed, x = PackedFFF(layer), tokens_of(layer, 64)  # 1 MiB of outputs
    packed(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(500):
        packed(x)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_threads_of_python_may_call_one_layer(packed: PackedFFF):
    x = torch.randn(400, 32)
    want = packed(x)
    with ThreadPoolExecutor(4) as pool:
        for size in (1, 50):
            answers = list(pool.map(packed, x.split(size)))
            assert torch.equal(torch.cat(answers), want)


def test_a_torch_without_the_exchange_answers_the_same(
    packed: PackedFFF, monkeypatch: pytest.MonkeyPatch
):
    x = torch.randn(6, 32)
    want = packed(x)
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    run = cmm.open_run(packed.records, packed.b_out, packed.layout)
    for tokens, outputs in ((x, want), (x[:1], want[:1]), (x.view(2, 3, 32), want.view(2, 3, 16))):
        assert torch.equal(run(tokens), outputs)
