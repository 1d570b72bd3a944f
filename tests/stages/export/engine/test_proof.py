from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.export.engine.build import BuildFailed
from stages.export.engine.proof import (
    EngineLayer,
    count_products,
    engine_layers,
    expected_products,
    prove,
)

WORDS = {"int8": "Int8", "fp16": "Half", "fp32": "Float"}
QUANTIZE = (
    "Name: __myl_CastTranMulRounCast_myl0_1, LayerType: kgen, Inputs: [ { Name: images, Dimensions:"
    " [-1,32,32,3], Strides: [3072,96,3,1], StrideOrder: [3,2,1,0], Datatype: UInt8, Format: "
    "(Linear) Row major linear format }], Constants: [ { Name: __mye64, Dimensions: [1,3,1,1], "
    "Datatype: Half, Format: (NHWC) Channel major format }], Outputs: [ { Name: q, Dimensions: "
    "[-1,4,32,32], Datatype: Int8, Format: (NHWC) Channel major format }], TacticName: __myl, "
    "StreamId: 0, Metadata: [ONNX Layer: node_permute][ONNX Layer: node_Conv_294]"
)
CONVOLUTION = (
    "[VERBOSE] Name: node_Conv_294_myl0_2, LayerType: correlation, Inputs: [ { Name: q, Dimensions:"
    " [-1,4,32,32], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w,"
    " Dimensions: [64,4,7,7], Datatype: Int8, Format: (NHWC) }, { Name: s, Dimensions: [1,64,1,1], "
    "Datatype: Float, Format: (NHWC) }], Outputs: [ { Name: o, Dimensions: [-1,64,16,16], Datatype:"
    " Float, Format: (NHWC) }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: "
    "[ONNX Layer: node_Conv_294][ONNX Layer: div_1_DequantizeLinear]"
)
FUSED = (
    "Name: __myl_CastFcAdd_myl0_9, LayerType: runtime_fusion, Inputs: [ { Name: a, Dimensions: "
    "[-1,192], Datatype: Float, Format: (Linear) }], Constants: [ { Name: b, Dimensions: [1,768], "
    "Datatype: Float, Format: (Linear) }, { Name: w, Dimensions: [192,768], Datatype: Half, Format:"
    " (Linear) }], Outputs: [ { Name: c, Dimensions: [-1,768], Datatype: Half, Format: (Linear) }],"
    " TacticName: , StreamId: 0, Metadata: [ONNX Layer: node_gelu][ONNX Layer: node_MatMul_72]"
)
SIGNAL = (
    "Name: __mye14094_myl0_13, LayerType: signal, Inputs: [], Constants: [], Outputs: [], "
    "TacticName: , StreamId: 0, EventId: 1, Metadata: "
)
TENSORRT_8 = (
    "Name: conv1 + relu1, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, "
    "Dimensions: [1,3,8,8], Format/Datatype: Row major Int8 format }], Outputs: [ { Name: y, "
    "Location: Device, Dimensions: [1,8,8,8], Format/Datatype: Row major linear FP32 }], "
    "ParameterType: Convolution, TacticName: ampere_imma_fwd, StreamId: 0, Metadata: "
    "[ONNX Layer: conv1]"
)


def test_the_products_own_row_decides_over_rows_that_only_mention_it() -> None:
    for rows in ([QUANTIZE, CONVOLUTION], [CONVOLUTION, QUANTIZE]):
        assert count_products(engine_layers(rows), ["node_Conv_294"]) == {"int8": 1}


def test_the_weights_speak_for_a_product_inside_a_fused_kernel() -> None:
    assert count_products(engine_layers([FUSED]), ["node_MatMul_72"]) == {"fp16": 1}


def test_rows_without_tensors_are_no_products() -> None:
    (layer,) = engine_layers([SIGNAL])
    assert layer == EngineLayer(name="__mye14094_myl0_13", kind="signal", type="", origins=())


def test_the_table_of_older_versions_is_understood_too() -> None:
    (layer,) = engine_layers([TENSORRT_8])
    assert layer.is_product
    assert (layer.type, layer.origins) == ("int8", ("conv1",))


@given(st.lists(st.sampled_from(sorted(WORDS)), max_size=20))
def test_any_mixture_of_types_is_counted_as_it_is(types: list[str]) -> None:
    rows = [
        CONVOLUTION.replace("Int8", WORDS[type_]).replace("node_Conv_294", f"conv_{index}")
        for index, type_ in enumerate(types)
    ]
    nodes = [f"conv_{index}" for index in range(len(types))]
    assert count_products(engine_layers(rows), nodes) == Counter(types)


def test_a_product_that_lost_its_precision_breaks_the_proof(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(CONVOLUTION.replace("Int8", "Half"))
    with pytest.raises(BuildFailed, match=r"of 1 .* products in int8, 0 were .*'fp16': 1"):
        prove(log, {"node_Conv_294": "int8"}, "int8")


def test_a_graph_without_a_product_in_its_precision_is_not_what_it_is_called() -> None:
    assert expected_products({"a": "int8", "b": "fp16", "c": "int8"}, "int8") == 2
    with pytest.raises(BuildFailed, match=r"made as int8 has no .*'fp16': 1"):
        expected_products({"node_Conv_294": "fp16"}, "int8")


def test_products_that_are_wanted_in_full_precision_are_not_held_against_int8(
    tmp_path: Path,
) -> None:
    log = tmp_path / "build.log"
    log.write_text(f"{CONVOLUTION}\nsomething else\n{FUSED}\n")
    products = {"node_Conv_294": "int8", "node_MatMul_72": "fp16"}
    proof = prove(log, products, "int8")
    assert proof.counts == {"int8": 1, "fp16": 1}
    assert proof.rows == (CONVOLUTION, FUSED)
