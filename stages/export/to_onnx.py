"""To ONNX: a torch module becomes a graph with a free batch axis; texts are of any length, too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, TensorProto

from pipeline.artifacts import TensorSpec
from pipeline.errors import StageFailed
from stages.export.failure import first_line, quiet
from stages.export.graph import opset as opset_of
from stages.export.graph import save

TRACE_BATCH = 2
"""A trace at batch 1 freezes the batch axis (pytorch issue 149065)."""
_TRACE_LENGTH = 8

_OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'")
_ONNX_TYPES: dict[int, str] = {
    TensorProto.UINT8: "uint8", TensorProto.INT32: "int32", TensorProto.FLOAT: "float32",
}  # fmt: skip
_FREE_AXES = ("batch", "length")


def to_onnx(
    module: torch.nn.Module, taken: TensorSpec, given: TensorSpec, path: Path, *, opset: int
) -> None:
    """Write `module` as an ONNX graph and check it against what it should take and give.

    Raises:
        StageFailed: an operator has no ONNX form (it is named), or the graph is not what was asked
        for.
    """
    shape = [_TRACE_LENGTH if size == -1 else size for size in taken.shape[1:]]
    example = torch.zeros((TRACE_BATCH, *shape), dtype=getattr(torch, taken.dtype))
    # How long a text may be is for the module to know: the second axis takes whatever it takes.
    axes = [torch.export.Dim(_FREE_AXES[0]), torch.export.Dim.DYNAMIC]
    free = {axis: axes[axis] for axis, size in enumerate(taken.shape) if size == -1}
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                # A tuple goes by position; a dict would need the name of forward()'s parameter.
                dynamic_shapes=(free,),
                input_names=[taken.name],
                output_names=[given.name],
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            model: ModelProto = program.model_proto
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise StageFailed(_explain(error)) from error
    # An opset it cannot reach is no error to the exporter: it logs a line and writes another.
    if opset_of(model) != opset:
        raise StageFailed(
            f"export.opset: asked for {opset} and the graph came out in {opset_of(model)}; an "
            f"operator of this model cannot be written in {opset}. Set opset: {opset_of(model)}."
        )
    check_interface(model, taken, given)
    save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def check_interface(model: ModelProto, taken: TensorSpec, given: TensorSpec) -> None:
    """Hold a graph's inputs and outputs against what they should be.

    Raises:
        StageFailed: a name, type or shape differs, or the batch axis is frozen.
    """
    found = (tensor_specs(model.graph.input), tensor_specs(model.graph.output))
    wanted = ((taken,), (given,))
    if found != wanted:
        raise StageFailed(
            f"export: the graph takes {_names(found[0])} and gives {_names(found[1])}; it must "
            f"take {_names(wanted[0])} and give {_names(wanted[1])} (-1 is a free axis). "
            f"Let forward() take one {taken.dtype} batch, return one tensor of logits, and use no "
            "fixed size for what is free."
        )


def tensor_specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Return names, types and shapes of a graph's inputs or outputs; -1 for a free axis."""
    return tuple(
        TensorSpec(
            name=value.name,
            dtype=_ONNX_TYPES.get(value.type.tensor_type.elem_type, "other"),
            shape=tuple(
                dim.dim_value if dim.HasField("dim_value") else -1
                for dim in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
    )


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs) or "nothing"


def _explain(error: Exception) -> str:
    text = f"{error} {error.__cause__ or ''}"
    operator = _OPERATOR.search(text)
    if operator:
        return (
            f"export: the operator '{operator[1]}' has no ONNX form. Replace it in the model's "
            "forward() by operators that have one, or register a translation with torch.onnx."
        )
    cause = error.__cause__ or error
    return (
        f"export: the model cannot be traced: {first_line(cause)} forward() must be free of "
        "Python branches on tensor values and of fixed batch sizes."
    )
