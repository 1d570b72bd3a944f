"""Packed layers: they stand where fast layers did, and answer as those do."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from small_layers import NATIVE, layer_of, reference, tokens_of
from torch import nn

from pipeline.errors import ConfigError
from stages.train.fff.inference import PackedFFF, pack_layers, packed_answers
from stages.train.fff.layer import FFF
from stages.train.fff.packed import Weights
from stages.train.fff.swap import swap_feedforward


def test_fp32_answers_what_the_layer_answers(backend: str):
    layer = FFF(48, 40, 5, 4, dense_width=8).eval()
    x = torch.randn(3, 7, 48)
    with torch.no_grad():
        torch.testing.assert_close(PackedFFF(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


def test_a_network_answers_the_same_with_packed_layers():
    encoder = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True).eval()
    swap_feedforward(encoder, {"depth": 3, "trees": 2})
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        before = encoder.eval()(x)
        assert pack_layers(encoder) == ["linear1"]
        torch.testing.assert_close(encoder(x), before, rtol=1e-5, atol=1e-6)


def test_evaluation_answers_by_the_kernel_and_training_does_not():
    layer = layer_of(32, 16, 4, 2)
    x = torch.randn(40, 32)
    with torch.no_grad():
        before, exact = layer(x), PackedFFF(layer)(x)
        with packed_answers(layer):
            if NATIVE:
                assert torch.equal(layer(x), exact)
                assert layer(x.bfloat16()).dtype == torch.float32
            layer.train()
            assert torch.equal(layer(x), layer_of(32, 16, 4, 2).train()(x))
            layer.eval()
        assert torch.equal(layer(x), before)


def test_a_packed_layer_can_be_copied_and_saved(tmp_path: Path):
    packed = PackedFFF(layer_of())
    x = tokens_of(layer_of(), 9)
    want = packed(x)
    assert torch.equal(copy.deepcopy(packed)(x), want)
    torch.save(packed.state_dict(), tmp_path / "packed.pt")
    other = PackedFFF(layer_of(seed=5))
    other(x)
    other.load_state_dict(torch.load(tmp_path / "packed.pt", weights_only=True))
    assert torch.equal(other(x), want)
    assert torch.equal(other.double().float()(x), want)
    low = other.bfloat16()(x.bfloat16())
    torch.testing.assert_close(low.float(), want, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("weights", "least"), [("bf16", 0.95), ("int8", 0.9)])
def test_narrow_weights_take_nearly_all_tokens_the_same_way(weights: Weights, least: float):
    layer = layer_of(256, 64, 7, 1)
    x = tokens_of(layer, 2000)
    wide, narrow = (reference(PackedFFF(layer, kind), x)[1] for kind in ("fp32", weights))
    assert float((wide == narrow).all(-1).float().mean()) > least


def test_lower_precisions_come_back_as_they_came(backend: str):
    layer = layer_of(32, 16, 4, 2)
    answer = PackedFFF(layer)(torch.randn(4, 32).bfloat16())
    assert answer.dtype == torch.bfloat16


def test_export_sees_the_operator_for_any_batch():
    packed = PackedFFF(layer_of(32, 16, 4, 2)).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(packed, (torch.randn(4, 32),), dynamic_shapes=({0: batch},))
    assert "dlpipe.cmm" in program.graph_module.code
    x = torch.randn(9, 32)
    torch.testing.assert_close(program.module()(x), packed(x), rtol=0, atol=0)


def test_compile_sees_the_operator():
    packed = PackedFFF(layer_of(32, 16, 4, 2)).eval()
    seen: list[str] = []

    def look(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        seen.append(graph.code)
        return graph

    x = torch.randn(9, 32)
    compiled = torch.compile(packed, backend=look, fullgraph=True)
    torch.testing.assert_close(compiled(x), packed(x), rtol=0, atol=0)
    assert "dlpipe.cmm" in seen[0]


def test_a_gradient_is_refused():
    packed = PackedFFF(layer_of())
    with pytest.raises(RuntimeError, match="no gradient. Train the FFF"):
        packed(torch.randn(2, 37, requires_grad=True))


def test_an_activation_that_kernels_do_not_know_is_named():
    with pytest.raises(ConfigError, match="do not know the activation Tanh. Use GELU, ReLU"):
        PackedFFF(layer_of(activation=nn.Tanh()))
