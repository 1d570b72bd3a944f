"""The preprocess model of texts: strings in, token numbers out, by the tokenizers package.

Copied into the repository as ``<model>/1/model.py``; ``tokenizer.json`` stands beside it.

Shapes: N texts of P parts, L tokens of the longest text of a request.
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
from numpy.typing import NDArray
from tokenizers import Tokenizer


class TritonPythonModel:
    """One instance: one tokenizer."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the tokenizer that lies beside this file."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # instances run side by side already
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # a written [SEP] is text
        self.padding = int(config["parameters"]["padding"]["string_value"])
        self.input = config["input"][0]["name"]
        self.output = config["output"][0]["name"]

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """Answer each request for itself."""
        return [self.answer(request) for request in requests]

    def answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        """Return the tokens of one request, or name its texts that are not UTF-8."""
        given = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()  # (N, P) bytes
        texts, damaged = [], []
        for number, parts in enumerate(given):
            try:
                decoded = [bytes(part).decode() for part in parts]
            except UnicodeDecodeError:
                damaged.append(str(number))
                continue
            texts.append(decoded[0] if len(decoded) == 1 else tuple(decoded))
        if damaged:
            message = f"text {', '.join(damaged)} of this request is not UTF-8"
            error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, self.filled(rows))])

    def filled(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
        """Return rows as one array (N, L), filled up at their ends."""
        longest = max(1, *map(len, rows))
        tokens = np.full((len(rows), longest), self.padding, dtype=np.int32)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
        return tokens
