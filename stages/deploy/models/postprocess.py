"""The postprocess model: logits in, the labels and scores of the most likely classes out.

Copied into the repository as ``<model>/1/model.py``; ``<model>/labels.txt`` names the classes.

Shapes: N images, K classes, T classes returned.
"""

# ruff: noqa: E402  the embedded server's interpreter sees no package until its path is set
from __future__ import annotations

import os
import sys

sys.path[:0] = filter(None, os.environ.get("DLPIPE_SITE_PACKAGES", "").split(os.pathsep))

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# The embedded server hands numpy 2 arrays on as EMPTY outputs with status OK: refuse to load.
if "DLPIPE_SITE_PACKAGES" in os.environ and int(np.__version__.split(".")[0]) >= 2:
    raise ImportError(f"numpy {np.__version__} is installed; this server needs numpy 1.x")

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Softmax, then the names of the best classes."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the class names."""
        config = json.loads(args["model_config"])
        text = Path(args["model_repository"], "labels.txt").read_text(encoding="utf-8")
        self.labels = np.array(text.removesuffix("\n").split("\n"), dtype=object)
        self.top_k = int(config["parameters"]["top_k"]["string_value"])
        self.input = config["input"][0]["name"]

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """Answer each request for itself."""
        responses = []
        for request in requests:
            logits = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()  # (N, K)
            best = np.argsort(-logits, axis=1, kind="stable")[:, : self.top_k]  # (N, T)
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
            shares = shifted / shifted.sum(axis=1, keepdims=True)
            scores = np.take_along_axis(shares, best, axis=1).astype(np.float32)
            labels = np.char.encode(self.labels[best].astype(str), "utf-8").astype(object)
            responses.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor("labels", labels), pb_utils.Tensor("scores", scores)]
                )
            )
        return responses
