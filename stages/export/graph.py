"""Graph: what is asked of an ONNX graph, whichever tool wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""The operators that do nearly all the arithmetic of a network."""

_EXTERNAL_DATA_BYTES = 2_000_000_000
"""Above this a protobuf message cannot hold the weights (its limit is 2 GiB)."""

_TYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}


def save(model: ModelProto, path: Path) -> None:
    """Write a graph; weights go into a file beside it only when they do not fit inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    external = model.ByteSize() > _EXTERNAL_DATA_BYTES
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=f"{path.name}.data" if external else None,
    )


def size_bytes(path: Path) -> int:
    """Return the bytes of a graph on disk, with the weights beside it when there are any."""
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def opset(model: ModelProto) -> int:
    """Return the version of the standard operator set a graph is written in."""
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def producers(model: ModelProto) -> dict[str, NodeProto]:
    """Return which node makes each tensor."""
    return {name: node for node in model.graph.node for name in node.output if name}


def head_nodes(model: ModelProto) -> list[str]:
    """Return the nodes before the first product: cast from uint8, normalization, layout.

    They are never quantized: here raw pixels become numbers of unit scale.
    """
    behind_product: set[str] = set()
    head: list[str] = []
    for node in model.graph.node:  # ONNX lists nodes in topological order
        if node.op_type in PRODUCTS or behind_product.intersection(node.input):
            behind_product.update(node.output)
        else:
            head.append(node.name)
    return head


def count_products(model: ModelProto) -> dict[str, int]:
    """Count convolutions and matrix products by the type they are computed in.

    A product whose inputs come from DequantizeLinear counts as ``int8``: that is how explicit
    quantization states it, in ONNX Runtime and in TensorRT alike.
    """
    made_by = producers(model)
    types = _element_types(model)
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        sources = [made_by.get(name) for name in node.input[:2]]
        if all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
            counts["int8"] += 1
        else:
            counts[_type_name(types, [*node.input[:2], *node.output])] += 1
    return dict(counts)


def _element_types(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model) if _fits(model) else model
    graph = inferred.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types.setdefault(value.name, value.type.tensor_type.elem_type)
    return types


def _fits(model: ModelProto) -> bool:
    return bool(model.ByteSize() <= _EXTERNAL_DATA_BYTES)


def _type_name(types: Mapping[str, int], names: Iterable[str]) -> str:
    known = (types[name] for name in names if name in types)
    return _TYPE_NAMES.get(next(known, 0), "other")
