from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from pipeline.context import Context
from pipeline.device import CPU
from stages.export.backends.onnxruntime import open_session
from stages.export.calibrate import find_ranges
from stages.export.cast import to_fp16
from stages.export.config import CalibrationConfig
from stages.export.graph import count_products, head_nodes, producers, save
from stages.export.parity import sqnr_db
from stages.export.quantize import convolutional_nodes, quantize
from stages.export.to_onnx import tensor_specs

FORMS = ("u8s8", "s8s8")
NETS = ("conv", "attention")


@pytest.fixture(scope="module")
def graphs(request, tmp_path_factory):
    """Return a function: net and form to the quantized model, made once."""
    made = {}
    config, ctx = CalibrationConfig(), Context(dir=tmp_path_factory.mktemp("q"))

    def get(net: str, form: str):
        if (net, form) not in made:
            exported = request.getfixturevalue(net)
            ranges = find_ranges(exported.histograms, "minmax", config, ctx)
            made[net, form] = quantize(exported.graph, ranges, form)
        return made[net, form]

    return get


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("net", NETS)
def test_every_product_is_fed_by_dequantize_linear(graphs, net, form):
    counts = count_products(graphs(net, form))
    assert set(counts) == {"int8"}
    assert counts["int8"] == {"conv": 5, "attention": 7}[net]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("net", NETS)
def test_the_quantized_graph_is_valid_and_answers_nearly_the_same(
    graphs, net, form, images, request, tmp_path: Path
):
    path = tmp_path / "graph.onnx"
    save(graphs(net, form), path)
    onnx.checker.check_model(str(path), full_check=True)
    session = open_session(path, CPU)
    right = open_session(request.getfixturevalue(net).graph, CPU)
    for batch in (1, 2, 5):
        assert sqnr_db(right(images[:batch]), session(images[:batch])) > 18


@pytest.mark.parametrize("form", FORMS)
def test_the_uint8_head_is_left_alone(graphs, conv, form):
    before, after = onnx.load(conv.graph), graphs("conv", form)
    head = head_nodes(before)
    assert "Cast" in {n.op_type for n in before.graph.node if n.name in head}
    kept = {node.name: node for node in after.graph.node}
    made_by = producers(after)
    for name in head:
        assert all(
            made_by[i].op_type != "DequantizeLinear" for i in kept[name].input if i in made_by
        )


@pytest.mark.parametrize("form", FORMS)
def test_types_and_the_free_batch_axis_survive(graphs, form):
    model = graphs("conv", form)
    (taken,), (given,) = tensor_specs(model.graph.input), tensor_specs(model.graph.output)
    assert (taken.name, taken.dtype, taken.shape) == ("images", "uint8", (-1, 16, 16, 1))
    assert (given.name, given.dtype, given.shape) == ("logits", "float32", (-1, 10))


@pytest.mark.parametrize("net", NETS)
def test_s8s8_has_no_zero_points_and_no_int32_biases(graphs, net):
    model = graphs(net, "s8s8")
    values = constants(model)
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero_point = values[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()


def test_u8s8_has_unsigned_activations_and_signed_weights(graphs):
    model = graphs("conv", "u8s8")
    values = constants(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert values[node.input[2]].dtype == np.uint8


@pytest.mark.parametrize("form", FORMS)
def test_weights_have_a_scale_per_channel_that_round_trips(graphs, conv, form):
    model, before = graphs("conv", form), constants(onnx.load(conv.graph))
    values, made_by = constants(model), producers(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        dequantize = made_by[node.input[1]]
        stored, scale = values[dequantize.input[0]], values[dequantize.input[1]]
        original = before[dequantize.input[0].removesuffix("_quantized")]
        assert stored.dtype == np.int8
        assert scale.shape == (original.shape[0],)
        back = stored * scale.reshape(-1, 1, 1, 1)
        assert np.all(np.abs(back - original) <= scale.reshape(-1, 1, 1, 1) * 0.5 + 1e-7)


def test_reduced_range_keeps_weights_to_seven_bits(conv, tmp_path: Path):
    ranges = {name: (h.low, h.high) for name, h in conv.histograms.items()}
    values = constants(quantize(conv.graph, ranges, "u8s8", reduce_range=True))
    weights = [value for value in values.values() if value.dtype == np.int8 and value.ndim == 4]
    assert weights
    assert max(np.abs(weight).max() for weight in weights) <= 64


def test_a_residual_addition_between_convolutions_is_quantized_in_a_transformer_it_is_not(
    conv, attention
):
    def additions(path: Path) -> list[str]:
        model = onnx.load(path)
        names = set(convolutional_nodes(model))
        return [n.name for n in model.graph.node if n.name in names and n.op_type == "Add"]

    assert len(additions(conv.graph)) == 1
    assert additions(attention.graph) == []


def test_s8s8_cast_to_fp16_keeps_its_integers(graphs, images, conv, tmp_path: Path):
    model = onnx.ModelProto()
    model.CopyFrom(graphs("conv", "s8s8"))
    cast = to_fp16(model)
    assert count_products(cast) == {"int8": 5}
    scales = {n.input[1] for n in cast.graph.node if n.op_type == "DequantizeLinear"}
    types = {t.name: t.data_type for t in cast.graph.initializer}
    assert {types[scale] for scale in scales} == {TensorProto.FLOAT16}
    save(cast, tmp_path / "graph.onnx")
    session = open_session(tmp_path / "graph.onnx", CPU)
    assert sqnr_db(open_session(conv.graph, CPU)(images), session(images)) > 18
