"""Cast: a graph's arithmetic in FP16; what goes in and comes out keeps its type."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeGuard

from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from stages.export.failure import converting
from stages.export.graph import producers

FP16_LIMIT = 65504.0
"""The largest finite number of FP16."""

_DEQUANTIZED = "_DequantizeLinear_Output"


def to_fp16(model: ModelProto, too_large: Collection[str] = ()) -> ModelProto:
    """Return the graph typed in FP16, with FP32 logits; `model` is used up.

    A Q/DQ graph keeps its integers: only scales, biases and what was not quantized change type.

    Args:
        model: the FP32 graph, or a Q/DQ graph made from it.
        too_large: tensors whose values FP16 cannot hold; the nodes that touch them stay in FP32.

    Raises:
        StageFailed: the graph has an operator the cast cannot handle.
    """
    held = {*too_large, *(f"{name}{_DEQUANTIZED}" for name in too_large)}
    blocked = [
        node.name for node in model.graph.node if held.intersection((*node.input, *node.output))
    ]
    with converting("the cast to FP16", "Leave fp16 out of precisions."):
        cast = convert_float_to_float16(model, keep_io_types=True, node_block_list=blocked)
        _join_blocked(cast, frozenset(blocked))
        # The casts around blocked nodes are appended at the end; ONNX wants them in order.
        ordered = ONNXModel(cast)
        ordered.topological_sort()
    result: ModelProto = ordered.model
    return result


def _join_blocked(model: ModelProto, blocked: frozenset[str]) -> None:
    """Let a node that stays in FP32 read straight from another one, not by way of FP16 and back."""
    made_by = producers(model)
    for node in model.graph.node:
        if node.name not in blocked:
            continue
        for position, name in enumerate(node.input):
            up = made_by.get(name)
            if not _casts_to(up, TensorProto.FLOAT):
                continue
            down = made_by.get(up.input[0])
            if not _casts_to(down, TensorProto.FLOAT16):
                continue
            source = made_by.get(down.input[0])
            if source is not None and source.name in blocked:
                node.input[position] = down.input[0]


def _casts_to(node: NodeProto | None, element: int) -> TypeGuard[NodeProto]:
    return (
        node is not None
        and node.op_type == "Cast"
        and any(a.name == "to" and a.i == element for a in node.attribute)
    )
