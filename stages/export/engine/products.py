"""products: the convolutions and matrix products of an ONNX graph, and the types they take."""

from __future__ import annotations

from pathlib import Path

import onnx

PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}


def graph_products(path: Path) -> dict[str, str]:
    """Return name -> type of each product: ``int8`` if it is fed by Q/DQ, else its float type."""
    graph = onnx.load(path, load_external_data=False).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    dequantized: set[str] = set()
    products: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            dequantized.update(node.output)
        if node.op_type in PRODUCTS:
            quantized = dequantized.issuperset(node.input[:2])
            kind = types.get(node.input[0], 0)
            products[node.name] = "int8" if quantized else _FLOATS.get(kind, "other")
        types |= dict.fromkeys(node.output, _output_type(node, types))
    return products


def opset(path: Path) -> int:
    """Return the version of ONNX's own operators that a graph uses."""
    model = onnx.load(path, load_external_data=False)
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _output_type(node: onnx.NodeProto, types: dict[str, int]) -> int:
    """Return the element type of a node's outputs, exact wherever a float can reach a product.

    Operators either say the type (Cast, constants), or hand on that of their first float input.
    """
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return int(attribute.i)
        if node.op_type in ("Constant", "ConstantOfShape") and attribute.name == "value":
            return int(attribute.t.data_type)
    inputs = [types.get(name, 0) for name in node.input]
    if node.op_type == "DequantizeLinear":
        return inputs[1]
    return next((kind for kind in inputs if kind in _FLOATS), inputs[0] if inputs else 0)
