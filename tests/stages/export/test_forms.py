"""Layers that a graph can compute in several ways: the fastest is taken, and answers stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.context import Context
from pipeline.graph_forms import HasGraphForms
from stages.export.config import ExportConfig
from stages.export.forms import FormChoice, choose_forms, fastest
from stages.train.fff.layer import FFF


class Repeated(nn.Module):
    """Says the same in one step or in two hundred."""

    graph_forms = "slow", "quick"

    def __init__(self) -> None:
        super().__init__()
        self.graph_form = "slow"
        self.weight = nn.Parameter(torch.eye(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(200 if self.graph_form == "slow" else 1):
            x = torch.tanh(x @ self.weight) if self.graph_form == "slow" else x @ self.weight
        return x


class Network(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(images.flatten(1).float() / 255)
        return out


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def config() -> ExportConfig:
    return ExportConfig.model_validate({"batch": {"min": 1, "opt": 8}, "latency": {"threads": 1}})


def test_layers_of_one_kind_are_timed_once_and_all_take_the_fastest_form(images, config, tmp_path):
    module = Network(Repeated(), nn.ReLU(), Repeated()).eval()
    [choice] = choose_forms(module, images, config, Context(dir=tmp_path))
    assert choice.layers == ("layers.0", "layers.2")
    assert choice.form == "quick"
    assert [module.layers[0].graph_form, module.layers[2].graph_form] == ["quick", "quick"]
    assert choice.times_ms["slow"].keys() == {"1", "8"}
    assert "layers.0 and 1 like it: quick (slow " in choice.why()
    assert FormChoice.from_json(choice.as_json()) == choice


def test_a_network_without_such_layers_costs_nothing(images, config, tmp_path):
    module = Network(nn.Linear(64, 3)).eval()
    assert choose_forms(module, images, config, Context(dir=tmp_path)) == []


def test_a_deep_tree_gathers_and_a_shallow_one_of_few_neurons_does_not_have_to(
    images, config, tmp_path
):
    module = Network(FFF(64, 64, depth=10), FFF(64, 64, depth=0, trees=2)).eval()
    deep, shallow = choose_forms(module, images, config, Context(dir=tmp_path))
    assert deep.form == "gathered"
    assert shallow.form in FFF.graph_forms


@pytest.mark.parametrize("dense_width", [0, 4])
def test_all_forms_of_a_fast_layer_answer_the_same(tmp_path, dense_width):
    layer = FFF(12, 10, 3, 2, dense_width=dense_width, balance=0.1).eval()
    assert isinstance(layer, HasGraphForms)
    x = torch.randn(5, 12)
    nodes = set()
    for form in layer.graph_forms:
        layer.graph_form = form
        path = tmp_path / f"{form}.onnx"
        torch.onnx.export(
            layer, (x,), path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False, external_data=False,
        )  # fmt: skip
        graph = onnx.load(path).graph
        nodes.add(tuple(node.op_type for node in graph.node))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        many = torch.randn(9, 12)
        (answer,) = session.run(None, {graph.input[0].name: many.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(answer, layer(many), atol=1e-5)
    assert len(nodes) == 2


TIMES = st.floats(0.01, 100)


@given(times=st.dictionaries(st.text(min_size=1), st.tuples(TIMES, TIMES), min_size=1))
def test_no_form_is_faster_at_every_batch_than_the_one_that_is_taken(times):
    by_form = {form: {"1": one, "8": many} for form, (one, many) in times.items()}
    taken = by_form[fastest(by_form)]
    assert not any(
        all(other[batch] < taken[batch] for batch in taken) for other in by_form.values()
    )


def test_a_fast_layer_is_held_against_a_dense_one_of_its_size(images, config, tmp_path):
    module = Network(nn.Linear(64, 32), FFF(32, 16, depth=3, trees=2, dense_width=5)).eval()
    [choice] = choose_forms(module, images, config, Context(dir=tmp_path))
    assert choice.dense_ms.keys() == choice.times_ms[choice.form].keys()
    twin = module.layers[1].dense_twin()
    assert [layer.weight.shape for layer in (twin[0], twin[2])] == [(35, 32), (16, 35)]
    assert "a dense layer of that size" in choice.why()
    assert FormChoice.from_json(choice.as_json()) == choice


def test_a_layer_without_a_dense_twin_is_held_against_nothing(images, config, tmp_path):
    [choice] = choose_forms(Network(Repeated()).eval(), images, config, Context(dir=tmp_path))
    assert (choice.dense_ms, choice.speedup, choice.warning()) == ({}, None, "")


@given(fast=st.floats(0.1, 10), dense=st.floats(0.1, 10), large=st.floats(0.1, 10))
def test_a_layer_that_is_no_faster_anywhere_that_is_served_is_warned_of(fast, dense, large):
    times = {"masked": {"1": fast, "8": large}}
    choice = FormChoice(("a",), "masked", "masked", times, {"1": dense, "8": 2 * large})
    assert choice.speedup == min(dense / fast, 2.0)
    assert bool(choice.warning()) == (dense <= fast)
