"""The offline reference: the exported graph and the DALI graph, run here without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pipeline.graph_forms import operators_beside
from stages.augment.loader import Inputs


class OnnxModel:
    """An ONNX graph on one CPU thread, run one image at a time.

    The server's tensor model runs a single request in this way, so the figures are bit-equal.
    """

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        operators = operators_beside(path)
        if operators is not None:
            options.register_custom_ops_library(str(operators))
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Inputs) -> NDArray[np.float32]:
        """Return the logits (N, K) of images (N, H, W, C), or of texts as tokens (N, L)."""
        rows = [
            self._session.run(None, {self._input: images[i : i + 1]})[0] for i in range(len(images))
        ]
        return np.concatenate(rows)


class DaliGraph:
    """A serialized DALI graph on one CPU thread."""

    def __init__(self, graph: Path) -> None:
        from nvidia.dali import Pipeline  # only where the data set has a DALI graph

        self._pipeline = Pipeline.deserialize(
            filename=str(graph),
            batch_size=1,
            num_threads=1,
            device_id=None,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        self._pipeline.build()

    def __call__(self, encoded: Sequence[bytes]) -> NDArray[np.uint8]:
        """Return the pixels (N, H, W, C) of encoded images."""
        return np.stack([self._one(image) for image in encoded])

    def _one(self, image: bytes) -> NDArray[np.uint8]:
        self._pipeline.feed_input("encoded", [np.frombuffer(image, dtype=np.uint8)])
        (pixels,) = self._pipeline.run()
        return np.array(pixels.at(0), dtype=np.uint8)


class Tokenization:
    """A tokenizer, one text at a time: each is as long as it is."""

    def __init__(self, tokenizer: Path) -> None:
        from tokenizers import Tokenizer  # only where the data set holds texts

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.encode_special_tokens = True  # a written [SEP] is text

    def __call__(self, text: Sequence[str]) -> NDArray[np.int32]:
        """Return the tokens (1, L) of a text of one part or two."""
        encoding = self._tokenizer.encode(text[0], text[1] if len(text) > 1 else None)
        return np.array([encoding.ids], dtype=np.int32)
