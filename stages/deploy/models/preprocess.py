"""The preprocess model: bytes of image or audio files in, uint8 pixels of the eval transform out.

Copied into the repository as ``<model>/1/model.py``; the serialized graph stands beside it as
``model.dali``, where Triton's own DALI backend finds it in the container.
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

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from nvidia.dali import Pipeline

Encoded = NDArray[np.uint8]  # (bytes,)
Pixels = NDArray[np.uint8]  # (H, W, C)
SOURCE = "encoded"


class TritonPythonModel:
    """One instance: one DALI pipeline that decodes a batch at a time."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph that lies beside this file."""
        config = json.loads(args["model_config"])
        self.graph = str(Path(args["model_repository"], args["model_version"], "model.dali"))
        self.threads = int(config["parameters"]["threads"]["string_value"])
        self.max_batch = int(config["max_batch_size"])
        self.input = config["input"][0]["name"]
        self.output = config["output"][0]["name"]
        self.pipeline = self.load()

    def load(self) -> Pipeline:
        """Build the pipeline; also after a failure, which leaves DALI's executor unusable."""
        pipeline: Pipeline = Pipeline.deserialize(
            filename=self.graph,
            batch_size=self.max_batch,
            num_threads=self.threads,
            device_id=None,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        pipeline.build()
        return pipeline

    def decode(self, images: Sequence[Encoded]) -> list[Pixels]:
        """Run the graph over at most `max_batch` files."""
        self.pipeline.feed_input(SOURCE, list(images))
        (pixels,) = self.pipeline.run()
        return [np.array(pixels.at(index)) for index in range(len(images))]

    def decode_each(self, images: Sequence[Encoded]) -> list[Pixels | None]:
        """Run the graph; None stands for a file that cannot be decoded."""
        try:
            return list(self.decode(images))
        except RuntimeError:
            self.pipeline = self.load()
        if len(images) == 1:
            return [None]
        return [pixels for image in images for pixels in self.decode_each([image])]

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """Decode the files of all requests together, and answer each request for itself."""
        batches = [
            pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
            for request in requests
        ]  # each (N, bytes) uint8
        images = [image for batch in batches for image in batch]
        pixels: list[Pixels | None] = []
        for start in range(0, len(images), self.max_batch):
            pixels += self.decode_each(images[start : start + self.max_batch])
        responses = []
        for batch in batches:
            mine, pixels = pixels[: len(batch)], pixels[len(batch) :]
            responses.append(self.respond(mine))
        return responses

    def respond(self, pixels: Sequence[Pixels | None]) -> pb_utils.InferenceResponse:
        """Return the pixels of one request, or name its damaged files."""
        damaged = [str(index) for index, image in enumerate(pixels) if image is None]
        if damaged:
            message = f"file {', '.join(damaged)} of this request cannot be decoded"
            error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        whole = np.stack([image for image in pixels if image is not None])  # (N, H, W, C)
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, whole)])

    def finalize(self) -> None:
        """Free the pipeline."""
        del self.pipeline
