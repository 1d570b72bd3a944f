"""The dali-cpu and dali-gpu backends: one graph, executed by NVIDIA DALI on either device.

The graph draws nothing: every random number comes in with the batch, from `stages.augment.plan`.
So a batch is a pure function of its position. Resuming in mid-epoch, leaving an epoch early and
going on after a damaged file need no checkpoint of the pipeline: the batch is asked for again.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali.pipeline import Pipeline
from torch.utils.dlpack import from_dlpack

from pipeline.device import Device
from stages.augment.backends.dali_graph import PIXEL_INPUT, Inputs, build_pipeline, graph_inputs
from stages.augment.damage import DamagedSample
from stages.augment.encoded import EncodedImages
from stages.augment.images import DamagedImage, match_channels
from stages.augment.plan import Plan, draw
from stages.augment.reader import ArrayReader, FileReader


class Feed(Protocol):
    """What a graph is fed with, and how it is built: images or clips."""

    def read(self, positions: NDArray[np.int64], key: Sequence[int]) -> Inputs:
        """Return files and random numbers of a batch."""
        ...

    def build(self, batch_size: int, threads: int) -> Pipeline:
        """Build the graph."""
        ...

    def culprit(self, positions: NDArray[np.int64], batch: Inputs) -> DamagedSample | None:
        """Return which sample of a failed batch cannot be decoded, if it is one of them."""
        ...


class DaliExecutor:
    """Transforms batches of one split.

    Two pipelines take turns on a CPU: one has work for the cores while the other comes to the end
    of an operator or hands over. DALI's own way to that, executors that run ahead, ends the process
    with a segmentation fault where a file has broken markers (2.4).
    """

    def __init__(self, feed: Feed, batch_size: int, device: Device) -> None:
        self._feed = feed
        threads = min(8, os.cpu_count() or 1)
        number = 1 if device.is_cuda else 2
        self.depth = number + 1  # so many run, and one is read
        self._lanes = [_Lane(feed, batch_size, threads) for _ in range(number)]
        self._turns = itertools.cycle(self._lanes)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._waiting: deque[Future[torch.Tensor]] = deque()

    def submit(self, positions: NDArray[np.int64], key: Sequence[int]) -> None:
        """Put a batch into the queue."""
        inputs = self._reading.submit(self._feed.read, positions, key)
        self._waiting.append(next(self._turns).submit(positions, inputs))

    def collect(self) -> torch.Tensor:
        """Return the images (N, H, W, C) of the oldest batch in the queue."""
        return self._waiting.popleft().result()

    def drain(self) -> None:
        """Forget what is in the queue."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.cancel():
                waiting.exception()

    def close(self) -> None:
        """Stop the threads and free the pipelines."""
        self.drain()
        self._reading.shutdown()
        for lane in self._lanes:
            lane.close()


class _Lane:
    """A pipeline and the thread that waits for it; DALI's own threads do the work."""

    def __init__(self, feed: Feed, batch_size: int, threads: int) -> None:
        self._feed = feed
        self._batch_size = batch_size
        self._threads = threads
        self._runner: GraphRunner | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dali")

    def submit(self, positions: NDArray[np.int64], inputs: Future[Inputs]) -> Future[torch.Tensor]:
        """Run a batch after those before it."""
        if self._runner is None:
            self._runner = GraphRunner(self._feed.build(self._batch_size, self._threads))
        return self._thread.submit(self._run, positions, inputs)

    def close(self) -> None:
        """Stop the thread and free the pipeline."""
        self._thread.shutdown()
        self._runner = None

    def _run(self, positions: NDArray[np.int64], inputs: Future[Inputs]) -> torch.Tensor:
        batch = inputs.result()
        if self._runner is None:
            raise RuntimeError("the pipeline failed at an earlier batch")
        try:
            return self._runner(batch)
        except RuntimeError as error:
            # DALI calls a pipeline that has failed invalid: what is asked for next gets a new one.
            self._runner = None
            culprit = self._feed.culprit(positions, batch)
            if culprit is None:
                raise
            raise culprit from error


class GraphRunner:
    """A built pipeline that takes a batch in and gives its images back."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __call__(self, batch: Inputs) -> torch.Tensor:
        """Return the images (N, H, W, C) of one batch."""
        (images,) = self._pipeline.run(**batch)
        # The buffer belongs to the pipeline and is used again by the next run: copy.
        return from_dlpack(images.as_tensor()).clone()


class ImageFeed:
    """Feeds images: files, or arrays that are decoded already."""

    def __init__(self, reader: ArrayReader | FileReader, plan: Plan, device: Device) -> None:
        self._reader = reader
        self._encoded = None if isinstance(reader, ArrayReader) else EncodedImages(reader)
        self._plan = plan
        self._device = device

    def read(self, positions: NDArray[np.int64], key: Sequence[int]) -> Inputs:
        """Return images and random numbers of a batch."""
        if self._encoded is None:
            assert isinstance(self._reader, ArrayReader)
            arrays = torch.from_numpy(self._reader.images[positions])
            images = match_channels(arrays, self._plan.channels).contiguous().numpy()
            sizes = np.tile(np.array(images.shape[1:3], dtype=np.int64), (len(images), 1))
            return graph_inputs(self._plan, images, draw(self._plan, sizes, key))
        files, sizes = self._encoded.fetch(positions)
        sources = [np.frombuffer(file, dtype=np.uint8) for file in files]
        return graph_inputs(self._plan, sources, draw(self._plan, sizes, key))

    def build(self, batch_size: int, threads: int) -> Pipeline:
        """Build the graph."""
        encoded = self._encoded is not None
        return build_pipeline(self._plan, self._device, batch_size, threads, encoded=encoded)

    def culprit(self, positions: NDArray[np.int64], batch: Inputs) -> DamagedSample | None:
        """Decode a failed batch image by image: DALI does not always say which one it was."""
        if self._encoded is None:
            return None
        decode_only = replace(self._plan, pixel=())
        for row, position in enumerate(positions):
            alone = {
                name: values[row : row + 1]
                for name, values in batch.items()
                if not name.startswith(PIXEL_INPUT)
            }
            try:
                GraphRunner(build_pipeline(decode_only, self._device, 1, 1, encoded=True))(alone)
            except RuntimeError as reason:
                return self._encoded.damaged(int(position), first_reason(reason))
        return None


def first_reason(error: RuntimeError) -> str:
    """Pick the line of DALI's report that says what is wrong with the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "ailed" in line]
    return (telling[1:] or telling or lines or ["unknown"])[0].rstrip(".")


def open_executor(
    reader: ArrayReader | FileReader,
    plan: Plan,
    device: Device,
    batch_size: int,
    on_damaged: Callable[[DamagedImage], None],
) -> DaliExecutor:
    """Open this backend over one split."""
    return DaliExecutor(ImageFeed(reader, plan, device), batch_size, device)
