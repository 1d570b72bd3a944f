"""The offline reference: the exported graph and the DALI graph, run here without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


def run_onnx(path: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits (N, K) of an ONNX graph for images (N, H, W, C), one image at a time.

    The server's tensor model runs single requests in the same way, so the figures must be bit-equal.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))]
    return np.concatenate(rows)


def run_dali(graph: Path, encoded: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return the pixels (N, H, W, C) that a serialized DALI graph makes of encoded images."""
    from nvidia.dali import Pipeline  # only where the data set has a DALI graph

    pipeline = Pipeline.deserialize(
        filename=str(graph),
        batch_size=len(encoded),
        num_threads=1,
        device_id=None,
        prefetch_queue_depth=1,
        exec_async=False,
        exec_pipelined=False,
    )
    pipeline.build()
    pipeline.feed_input("encoded", [np.frombuffer(image, dtype=np.uint8) for image in encoded])
    (pixels,) = pipeline.run()
    return np.stack([np.array(pixels.at(index)) for index in range(len(encoded))])
