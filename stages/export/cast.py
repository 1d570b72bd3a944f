"""Cast: a graph's arithmetic in FP16; what goes in and comes out keeps its type."""

from __future__ import annotations

from onnx import ModelProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from stages.export.failure import converting


def to_fp16(model: ModelProto) -> ModelProto:
    """Return the graph typed in FP16, with FP32 logits; `model` is used up.

    A Q/DQ graph keeps its integers: only scales, biases and what was not quantized change type.

    Raises:
        StageFailed: the graph has an operator the cast cannot handle.
    """
    with converting("the cast to FP16", "Leave fp16 out of precisions."):
        cast: ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return cast
