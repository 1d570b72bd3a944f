"""Conditional matrix multiplication: every backend against one reference in float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_layers import NATIVE, assert_close, layer_of, needs_native, reference, tokens_of
from torch import nn

from pipeline.errors import ConfigError
from stages.train.fff import cmm
from stages.train.fff.inference import PackedFFF
from stages.train.fff.layer import FFF
from stages.train.fff.packed import WEIGHTS, Weights

BATCHES = (0, 1, 2, 15, 16, 127, 300)


@pytest.mark.parametrize(
    "layer",
    [
        layer_of(1, 1, 0, 1),
        layer_of(5, 3, 0, 3, bias=False),
        layer_of(),
        layer_of(64, 32, 6, 3, activation=nn.ReLU()),
        layer_of(33, 31, 7, 1, activation=nn.SiLU(), bias=False),
        layer_of(130, 96, 3, 5, activation=nn.GELU("tanh")),
        layer_of(256, 320, 9, 1),
    ],
    ids=lambda layer: f"{layer.in_features}-{layer.out_features}-{layer.depth}x{layer.trees}",
)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_outputs_are_those_of_the_reference(layer: FFF, weights: Weights, backend: str):
    packed = PackedFFF(layer, weights)
    for num in BATCHES:
        x = tokens_of(layer, num)
        want, _ = reference(packed, x)
        with torch.no_grad():
            assert_close(packed(x), want)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_large_tree_and_a_large_batch_are_right_too(weights: Weights, backend: str):
    layer = layer_of(96, 128, 10, 2 if weights == "fp32" else 1)
    packed = PackedFFF(layer, weights)
    x = tokens_of(layer, 4096)
    with torch.no_grad():
        assert_close(packed(x), reference(packed, x)[0])


@given(
    inputs=st.integers(1, 80), outputs=st.integers(1, 80), depth=st.integers(0, 6),
    trees=st.integers(1, 4), num=st.integers(0, 70), seed=st.integers(0, 2**31),
    weights=st.sampled_from(WEIGHTS),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shape_is_right(
    inputs: int, outputs: int, depth: int, trees: int, num: int, seed: int, weights: Weights
):
    layer = layer_of(inputs, outputs, depth, trees, seed=seed)
    packed = PackedFFF(layer, weights)
    x = tokens_of(layer, num, seed)
    want, path = reference(packed, x)
    with torch.no_grad():
        got = packed(x).double()
    rows = (got - want).abs().amax(1) < 1e-5
    assert int((~rows).sum()) <= path.numel() // 10_000  # a logit may round to the other side of 0


@needs_native
@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_token_has_the_same_outputs_to_the_bit_in_any_batch(
    isa: str, weights: Weights, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(cmm.VARIABLE, isa)
    layer = layer_of(96, 100, 10, 2)
    packed = PackedFFF(layer, weights)
    x = tokens_of(layer, 1500)

    def outputs(begin: int, end: int, threads: int) -> torch.Tensor:
        run = cmm.open_run(packed.records, packed.b_out, packed.layout, threads=threads)
        return run(x[begin:end])

    whole = outputs(0, 1500, 1)
    assert torch.equal(outputs(0, 1500, 2), whole)
    assert torch.equal(outputs(0, 1500, 5), whole)
    for begin, end in ((0, 1), (7, 9), (100, 103), (200, 217), (0, 128), (300, 900)):
        for threads in (1, 2):
            assert torch.equal(outputs(begin, end, threads), whole[begin:end])


@needs_native
@pytest.mark.parametrize("isa", NATIVE)
def test_outputs_that_no_cache_would_keep_are_the_same_to_the_bit(
    isa: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(cmm.VARIABLE, isa)
    for outputs in (1024, 1010):  # rows of whole lines, and others
        layer = layer_of(32, outputs, 5, 1)
        packed = PackedFFF(layer)
        x = tokens_of(layer, 2100)
        run = cmm.open_run(packed.records, packed.b_out, packed.layout, threads=2)
        parts = torch.cat([run(x[:1000]), run(x[1000:])])
        assert run(x).nbytes > 8 * 2**20 > parts[:1000].nbytes
        assert torch.equal(run(x), parts)


def test_a_logit_of_zero_goes_left(backend: str):
    layer = layer_of(8, 8, 3, 2, bias=False)
    nn.init.zeros_(layer.w_in)
    layer.activation = nn.SiLU()
    packed = PackedFFF(layer)
    x = torch.randn(5, 8)
    x[0] = 0
    assert_close(cmm.cmm(x, packed.records, None, packed.layout), reference(packed, x)[0])
    left = torch.tensor([0, 1, 2, 3])
    assert torch.equal(reference(packed, x)[1][:, 0], left.expand(5, -1))
    layer.b_in = nn.Parameter(torch.full((len(layer.w_in),), torch.finfo(torch.float32).tiny))
    packed = PackedFFF(layer)  # the smallest number greater than 0 goes right
    assert_close(cmm.cmm(x, packed.records, packed.b_out, packed.layout), reference(packed, x)[0])
    assert int(reference(packed, x)[1][0, 0, -1]) == layer.w_in.shape[0] // 2 - 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_what_is_not_finite_ends_and_stays_in_its_row(value: float, weights: Weights, backend: str):
    layer = layer_of(40, 24, 6, 2)
    packed = PackedFFF(layer, weights)
    x = tokens_of(layer, 33)
    before = packed(x)
    x[5, 3] = value
    after = packed(x)
    others = torch.arange(33) != 5
    assert torch.equal(after[others], before[others])
    assert not torch.isfinite(after[5]).all()


def test_any_strides_are_read(backend: str):
    layer = layer_of(32, 16, 4, 2)
    packed = PackedFFF(layer)
    wide = torch.randn(20, 64)
    for x in (wide[:, ::2], wide[:, 32:], wide[::3, :32], torch.randn(32, 9).t(),
              torch.randn(1, 32).expand(6, -1)):  # fmt: skip
        torch.testing.assert_close(packed(x), packed(x.contiguous()), rtol=0, atol=0)


def test_the_operator_is_whole():
    layer = layer_of(32, 16, 4, 2)
    packed = PackedFFF(layer)
    arguments = (torch.randn(6, 32), packed.records, packed.b_out, 16, 4, 2, "fp32", "gelu")
    torch.library.opcheck(torch.ops.dlpipe.cmm, arguments)


def test_sizes_are_checked_before_memory_is_read():
    packed = PackedFFF(layer_of())
    with pytest.raises(ValueError, match=r"x is \(2, 36\), and \(\.\.\., 37\) is needed"):
        cmm.cmm(torch.randn(2, 36), packed.records, packed.b_out, packed.layout)
    with pytest.raises(ValueError, match=r"records are torch.uint8 \(5, "):
        cmm.cmm(torch.randn(2, 37), packed.records[:5], packed.b_out, packed.layout)
    with pytest.raises(ValueError, match=r"b_out is .* \(3,\), and .* \(70,\) is needed"):
        cmm.cmm(torch.randn(2, 37), packed.records, torch.zeros(3), packed.layout)


def test_a_backend_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(cmm.VARIABLE, "torhc")
    with pytest.raises(ConfigError, match="'torhc' cannot compute here.*Did you mean 'torch'"):
        cmm.backend()


def test_without_a_compiler_another_backend_takes_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cmm, "_native", None)
    assert "torch" in cmm.backends()
    assert not any(name.startswith("native") for name in cmm.backends())


FORKED = """
import os, torch  # torch's own threads do not outlive a fork either: none of its work there
from stages.train.fff import cmm
from stages.train.fff.inference import PackedFFF
from stages.train.fff.layer import FFF

packed, x = PackedFFF(FFF(96, 64, 8)), torch.randn(600, 96)
run = cmm.open_run(packed.records, packed.b_out, packed.layout, threads=3)
of = lambda: run(x)
before = of()
child = os.fork()
if not child:
    os._exit(0 if (of().numpy() == before.numpy()).all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_native
def test_a_forked_process_has_threads_of_its_own():
    command = [sys.executable, "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "0"
