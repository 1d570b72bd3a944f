"""Dense: feedforward layers of one width in the libraries that a user would take."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import gelu, linear

Answer = Callable[[torch.Tensor], object]
"""Computes the outputs of tokens (N, I)."""


def dense_sides(inputs: int, width: int, *, bf16: bool = False) -> dict[str, Answer]:
    """Return layers inputs -> width -> inputs with GELU and random weights, by library.

    Args:
        inputs: I, and outputs too.
        width: neurons.
        bf16: PyTorch's layer in bf16 alone; the others have no such product.
    """
    w_in, w_out = torch.randn(width, inputs) / inputs**0.5, torch.randn(inputs, width) / width**0.5
    if bf16:
        low_in, low_out = w_in.bfloat16(), w_out.bfloat16()
        return {
            f"torch bf16 {width}": lambda x: linear(gelu(linear(x.bfloat16(), low_in)), low_out)
        }
    return {
        f"torch {width}": partial(torch_dense, w_in, w_out),
        f"numpy {width}": _of_numpy(w_in, w_out),
        f"onnxruntime {width}": _of_onnxruntime(w_in, w_out),
    }


def torch_dense(w_in: torch.Tensor, w_out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return what PyTorch computes, with MKL or oneDNN."""
    return linear(gelu(linear(x, w_in)), w_out)


def _of_numpy(w_in: torch.Tensor, w_out: torch.Tensor) -> Answer:
    first, second = np.ascontiguousarray(w_in.t().numpy()), np.ascontiguousarray(w_out.t().numpy())

    def answer(x: torch.Tensor) -> torch.Tensor:
        hidden = gelu(torch.from_numpy(x.numpy() @ first))  # numpy has no erf
        return torch.from_numpy(hidden.numpy() @ second)

    return answer


def _of_onnxruntime(w_in: torch.Tensor, w_out: torch.Tensor) -> Answer:
    network = nn.Sequential(
        nn.Linear(w_in.shape[1], len(w_in), bias=False),
        nn.GELU(),
        nn.Linear(len(w_in), len(w_out), bias=False),
    ).eval()
    with torch.no_grad():
        network[0].weight.copy_(w_in)
        network[2].weight.copy_(w_out)
    run = onnxruntime_answer(network, torch.randn(4, w_in.shape[1]))
    return lambda x: run(x.numpy())


def onnxruntime_answer(
    network: nn.Module, example: torch.Tensor, library: Path | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a network as ONNX Runtime computes it, for any batch, on as many threads as torch.

    Args:
        network: in evaluation mode.
        example: of what it takes, two samples or more.
        library: of operators that its graph has.
    """
    import onnxruntime

    batch = torch.export.Dim("batch", min=1, max=2**20)
    program = torch.onnx.export(
        network, (example,), dynamo=True, dynamic_shapes=({0: batch},), opset_version=20,
        verbose=False, external_data=False,
    )  # fmt: skip
    model = program.model_proto.SerializeToString()

    @cache
    def session_of(threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        if library is not None:
            options.register_custom_ops_library(str(library))
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    name = session_of(1).get_inputs()[0].name
    return lambda x: session_of(torch.get_num_threads()).run(None, {name: x})[0]
