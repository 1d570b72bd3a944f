"""Fast feedforward layers as an operator of ONNX Runtime: the answers of torch and the kernel."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pipeline.errors import BackendUnavailable
from pipeline.graph_forms import HasOperatorForms, OperatorLibrary
from stages.train.fff import cmm
from stages.train.fff.inference import PackedFFF
from stages.train.fff.layer import FFF
from stages.train.fff.onnx_operator import DOMAIN, FORM, LIBRARY, NAME

needs_library = pytest.mark.skipif(
    LIBRARY.path() is None, reason=f"{LIBRARY.file} was not built: there was no C++ compiler"
)
_ERRORS = onnxruntime.capi.onnxruntime_pybind11_state
REFUSED = (_ERRORS.RuntimeException, _ERRORS.InvalidArgument)
"""What ONNX Runtime raises while it loads a graph, and while it runs one."""


def layer_of(
    inputs: int = 37, outputs: int = 20, depth: int = 3, trees: int = 2, *, bias: bool = True,
    activation: nn.Module | None = None,
) -> FFF:  # fmt: skip
    torch.manual_seed(0)
    return FFF(inputs, outputs, depth, trees, activation, bias=bias).eval()


def weights_of(layer: FFF) -> dict[str, np.ndarray]:
    named = {"w_in": layer.w_in, "w_out": layer.w_out, "b_in": layer.b_in, "b_out": layer.b_out}
    return {name: value.detach().numpy() for name, value in named.items() if value is not None}


def graph_of(
    layer: FFF,
    *,
    computed: str = "",
    weights: dict[str, np.ndarray] | None = None,
    rank: int = 2,
    **attributes: object,
) -> bytes:
    """Return a graph of one node, whose input `computed` is none of its initializers."""
    weights = weights_of(layer) | (weights or {})
    says = {"depth": layer.depth, "trees": layer.trees, "activation": "gelu"} | attributes
    says = {name: value for name, value in says.items() if value is not None}
    taken = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)]
    if computed:
        taken.append(
            helper.make_tensor_value_info(computed, TensorProto.FLOAT, weights[computed].shape)
        )
    graph = helper.make_graph(
        [helper.make_node(NAME, ["x", *weights], ["y"], domain=DOMAIN, **says)],
        "one",
        taken,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, name) for name, v in weights.items() if name != computed],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.register_custom_ops_library(str(LIBRARY.require()))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def answer(session: onnxruntime.InferenceSession, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@needs_library
@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 100),
    outputs=st.integers(1, 100),
    depth=st.integers(0, 5),
    trees=st.integers(1, 4),
    bias=st.booleans(),
    batch=st.sampled_from([0, 1, 2, 15, 16, 127, 600]),
)
def test_it_answers_as_the_layer_and_to_the_bit_as_the_kernel_does(
    inputs, outputs, depth, trees, bias, batch
):
    layer = layer_of(inputs, outputs, depth, trees, bias=bias)
    x = torch.randn(batch, inputs)
    got = answer(open_session(graph_of(layer)), x)
    with torch.no_grad():
        torch.testing.assert_close(got, layer(x), rtol=1e-4, atol=1e-5)
        if cmm.backend() == cmm.backends()[0]:  # the environment names no other
            assert torch.equal(got, PackedFFF(layer)(x))


@needs_library
@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("gelu", nn.GELU()),
        ("gelu_tanh", nn.GELU("tanh")),
        ("relu", nn.ReLU()),
        ("silu", nn.SiLU()),
    ],
)
def test_it_knows_every_activation_of_the_kernels(name, activation):
    layer = layer_of(activation=activation)
    x = torch.randn(9, layer.in_features)
    with torch.no_grad():
        got = answer(open_session(graph_of(layer, activation=name)), x)
        torch.testing.assert_close(got, layer(x), rtol=1e-4, atol=1e-5)


@needs_library
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 0, 3)])
def test_it_takes_any_leading_dimensions(shape):
    layer = layer_of()
    x = torch.randn(*shape, layer.in_features)
    with torch.no_grad():
        got = answer(open_session(graph_of(layer, rank=x.dim())), x)
        torch.testing.assert_close(got, layer(x), rtol=1e-4, atol=1e-5)


@needs_library
def test_a_token_gets_the_same_bits_in_any_batch_and_on_any_number_of_threads():
    layer = layer_of(depth=8)
    x = torch.randn(300, layer.in_features)
    one = open_session(graph_of(layer))
    whole = answer(one, x)
    assert torch.equal(whole, answer(open_session(graph_of(layer, threads=2)), x))
    assert torch.equal(whole, torch.cat([answer(one, row) for row in x.split(1)]))


@needs_library
def test_sessions_may_come_and_go_on_several_threads():
    layer = layer_of()
    x = torch.randn(40, layer.in_features)
    graph = graph_of(layer, threads=2)
    right = answer(open_session(graph), x)
    wrong = []

    def work() -> None:
        for _ in range(10):
            if not torch.equal(answer(open_session(graph), x), right):
                wrong.append(threading.current_thread().name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_library
@pytest.mark.parametrize("name", ["w_in", "w_out", "b_in", "b_out"])
def test_weights_that_the_graph_computes_are_refused(name):
    with pytest.raises(REFUSED, match=f"{name} is computed by the graph, and must be an initial"):
        open_session(graph_of(layer_of(), computed=name))


@needs_library
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 2}, r"w_in is \(30, 37\), and \(14, 37\) is needed"),
        ({"depth": 24}, "depth is 24, and must be from 0 to 23"),
        ({"trees": 0}, "trees is 0, and must be from 1 to 1048576"),
        ({"trees": 2**40}, "trees is 1099511627776, and must be"),
        ({"threads": 0}, "threads is 0, and must be from 1 to 1024"),
        ({"depth": None}, "depth"),
        ({"activation": "tanh"}, "activation is 'tanh', and must be gelu, gelu_tanh, relu or silu"),
        ({"activation": "x" * 100}, "activation is 'x{100}', and must be"),
        ({"activation": ""}, "activation is '', and must be"),
        ({"activation": None}, "activation"),
        ({"weights": {"w_out": np.ones((29, 20), np.float32)}}, r"w_out is \(29, 20\), and \(30,"),
        ({"weights": {"w_in": np.ones(30, np.float32)}}, r"w_in is \(30\), and \(neurons, columns"),
        ({"weights": {"w_in": np.ones((30, 0), np.float32)}}, r"w_in is \(30, 0\), and"),
        ({"weights": {"b_in": np.ones(31, np.float32)}}, r"b_in is \(31\), and \(30\) is needed"),
        ({"weights": {"b_out": np.ones(21, np.float32)}}, r"b_out is \(21\), and \(20\) is needed"),
    ],
)
def test_a_node_that_says_what_cannot_be_is_refused_when_the_graph_is_loaded(changes, message):
    with pytest.raises(REFUSED, match=message):
        open_session(graph_of(layer_of(), **changes))


@needs_library
def test_one_bias_without_the_other_is_refused():
    graph = onnx.load_model_from_string(graph_of(layer_of()))
    graph.graph.node[0].input.pop()
    with pytest.raises(REFUSED, match="b_in and b_out go together"):
        open_session(graph.SerializeToString())


@needs_library
@pytest.mark.parametrize("shape", [(4, 36), (0, 36), (4, 0)])
def test_tokens_of_another_width_are_refused(shape):
    session = open_session(graph_of(layer_of()))
    with pytest.raises(REFUSED, match=r"x is \(\d, \d+\), and \(..., 37\) is needed"):
        answer(session, torch.zeros(shape))


@needs_library
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_sick_numbers_give_sick_answers_and_no_crash(value):
    layer = layer_of()
    x = torch.full((3, layer.in_features), value)
    assert answer(open_session(graph_of(layer)), x).shape == (3, layer.out_features)


@needs_library
@pytest.mark.parametrize("dense_width", [0, 4])
def test_a_layer_in_this_form_is_one_node_and_answers_as_it_does_in_torch(dense_width, tmp_path):
    layer = FFF(12, 10, 3, 2, dense_width=dense_width).eval()
    assert isinstance(layer, HasOperatorForms)
    layer.graph_form = FORM
    x = torch.randn(2, 5, 12)
    program = torch.onnx.export(
        layer, (x,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False, external_data=False,
    )  # fmt: skip
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count(NAME) == 1
    session = open_session(model.SerializeToString())
    many = torch.randn(7, 5, 12)
    with torch.no_grad():
        torch.testing.assert_close(answer(session, many), layer(many), rtol=1e-4, atol=1e-5)


def test_a_layer_with_another_activation_offers_no_operator():
    layer: object = FFF(4, 4, 1, activation=nn.Tanh())
    assert isinstance(layer, HasOperatorForms)
    assert layer.graph_operators == {}


def test_a_library_that_was_not_built_says_what_to_do():
    library = OperatorLibrary(package="stages.train.fff", file="gone.so", why_not="Build it.")
    assert library.path() is None
    with pytest.raises(BackendUnavailable, match=r"fff: gone\.so is not there\. Build it\."):
        library.require()


def test_asking_for_the_library_imports_no_torch():
    code = (
        "import sys; from pipeline.graph_forms import operator_libraries as all\n"
        "print(*[each.file for each in all()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [LIBRARY.file, "False"]
