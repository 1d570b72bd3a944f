"""The tensor model: uint8 images or int32 tokens in, logits out, by ONNX Runtime on the CPU.

Copied into the repository as ``<model>/1/model.py``; ``model.onnx`` stands beside it, and
``operators.so`` where the graph has operators of our own.

Shapes: N samples, H height, W width, C channels, L tokens, K classes.
"""

# ruff: noqa: E402  the server's interpreter sees no package until its path is set
from __future__ import annotations

import os
import sys

sys.path[:0] = filter(None, os.environ.get("DLPIPE_SITE_PACKAGES", "").split(os.pathsep))

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# This server hands numpy 2 arrays on as EMPTY outputs with status OK: refuse to load instead.
if int(np.__version__.split(".")[0]) >= 2:
    raise ImportError(f"numpy {np.__version__} is installed; this server needs numpy 1.x")

import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray


class TritonPythonModel:
    """One instance: one session with a fixed number of threads."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph that lies beside this file."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["threads"]["string_value"])
        options.inter_op_num_threads = 1
        operators = folder / "operators.so"
        if operators.exists():
            options.register_custom_ops_library(str(operators))
        self.session = ort.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.padding = config["parameters"].get("padding", {}).get("string_value")
        self.input = config["input"][0]["name"]
        self.output = config["output"][0]["name"]

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """Answer the requests of one dynamic batch with one call of the session."""
        batches = [
            pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
            for request in requests
        ]  # each (N, H, W, C) uint8, or (N, L) int32
        images = batches[0] if len(batches) == 1 else np.concatenate(self.alike(batches))
        try:
            (logits,) = self.session.run([self.output], {self.input: images})  # (sum N, K)
        except Exception as error:  # the client gets one line, the log gets the rest
            pb_utils.Logger.log_error(f"ONNX Runtime: {error}")
            failure = pb_utils.TritonError("the model could not run this batch; see the log")
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        ends = np.cumsum([len(batch) for batch in batches])
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(self.output, part)])
            for part in np.split(logits, ends[:-1])
        ]

    def alike(self, batches: Sequence[NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Fill texts of several requests up to the longest; images are of one size as they are."""
        if self.padding is None:
            return batches
        longest = max(batch.shape[1] for batch in batches)
        return [
            np.pad(
                batch, ((0, 0), (0, longest - batch.shape[1])), constant_values=int(self.padding)
            )
            for batch in batches
        ]

    def finalize(self) -> None:
        """Free the session."""
        del self.session
