"""EngineRunner: batches in, logits out, through one or more slots, over any `Cuda`.

    runner = EngineRunner(cuda, engine.create_execution_context, binding)
    logits = runner(images)            # numpy (N, H, W, C), any N: through pinned buffers
    logits = runner.on_device(tensor)  # a torch CUDA tensor: bound where it lies, no copy

With two slots the copies of one part overlap with the computation of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.augment.loader import fill_up
from stages.export.arrays import Images
from stages.export.engine.api import Execution
from stages.export.engine.cuda import Cuda
from stages.export.engine.slot import Binding, RunFailed, Slot, execute

if TYPE_CHECKING:
    from torch import Tensor


class EngineRunner:
    """A loaded engine that answers; safe to call from several threads, one at a time."""

    def __init__(
        self,
        cuda: Cuda,
        new_execution: Callable[[], Execution],
        binding: Binding,
        *,
        slots: int = 2,
        torch_device: str = "cpu",
        current_stream: Callable[[], int] = lambda: 0,
    ) -> None:
        """Open the slots.

        Args:
            cuda: The device.
            new_execution: Makes an execution context of the engine; each stream needs its own.
            binding: Names and shapes of the engine's input and output.
            slots: How many parts of a large batch are in flight at once.
            torch_device: Where the tensors of `on_device` have to lie.
            current_stream: The stream that torch queues on, for `on_device`.
        """
        self.cuda, self.binding = cuda, binding
        self._new_execution: Callable[[], Execution] | None = new_execution
        self._torch_device, self._current_stream = torch_device, current_stream
        self._lock = Lock()
        self._direct: dict[int, Execution] = {}
        with cuda.active():
            self._slots = [Slot(cuda, new_execution(), binding) for _ in range(slots)]

    def __call__(self, images: Images) -> NDArray[np.float32]:
        """Return logits (N, classes) for uint8 images (N, H, W, C), or int32 tokens (N, L).

        Raises:
            RunFailed: the images are not of the engine's form, or the run failed.
        """
        images = self._as_long_as_any(images)
        self._check(images.shape, str(images.dtype))
        logits = np.empty((len(images), *self.binding.output_shape), np.float32)
        with self._lock, self._open():
            try:
                for index, part in enumerate(parts(len(images), self.binding.profile.max)):
                    slot = self._slots[index % len(self._slots)]
                    slot.collect()
                    slot.launch(images[part], logits[part])
                for slot in self._slots:
                    slot.collect()
            except BaseException:
                # `logits` is about to be freed: nothing may be left in flight that writes to it.
                for slot in self._slots:
                    slot.abandon()
                raise
        return logits

    def on_device(self, images: Tensor) -> Tensor:
        """Return logits for a tensor of images on this device, without a copy.

        The work is queued on torch's current stream, like any torch operation: no waiting is needed
        before, and the usual waiting after.

        Raises:
            RunFailed: the images are not of the engine's form, or the run failed.
        """
        import torch

        length = self.binding.profile.length
        if length is not None and images.ndim == 2:
            missing = max(0, length.max - images.shape[1])
            images = torch.nn.functional.pad(images, (0, missing), value=length.padding)
        self._check(tuple(images.shape), str(images.dtype).removeprefix("torch."))
        if str(images.device) != self._torch_device:
            raise RunFailed(
                f"export: the engine on {self._torch_device} was given a tensor on "
                f"{images.device}, which cannot be bound. Move it there, or pass a numpy array."
            )
        images = images.contiguous()
        logits = torch.empty(
            (len(images), *self.binding.output_shape), dtype=torch.float32, device=images.device
        )
        stream = self._current_stream()
        with self._lock, self._open() as new_execution:
            if stream not in self._direct:
                self._direct[stream] = new_execution()
            for part in parts(len(images), self.binding.profile.max):
                source, target = images[part], logits[part]
                missing = self.binding.padded(len(source)) - len(source)
                if missing:
                    source = torch.cat((source, source.new_zeros((missing, *source.shape[1:]))))
                    target = logits.new_empty((len(source), *logits.shape[1:]))
                execute(
                    self._direct[stream], self.binding, len(source), stream,
                    source.data_ptr(), target.data_ptr(),
                )  # fmt: skip
                if missing:
                    logits[part] = target[:-missing]
        return logits

    def close(self) -> None:
        """Free everything; doing so twice does nothing."""
        with self._lock:
            if self._new_execution is None:
                return
            with self.cuda.active():
                self.cuda.synchronize()
                # Streams, execution contexts and the engine are freed while the context is current.
                while self._slots:
                    self._slots.pop().close()
                self._direct.clear()
                self._new_execution = None
            self.cuda.close()

    @contextmanager
    def _open(self) -> Iterator[Callable[[], Execution]]:
        """Make the device current for a runner that was not closed."""
        if self._new_execution is None:
            raise RunFailed("export: this engine's session was closed; open it again.")
        with self.cuda.active():
            yield self._new_execution

    def _as_long_as_any(self, tokens: Images) -> Images:
        """Fill texts up to the longest length, for which all buffers are made."""
        length = self.binding.profile.length
        if length is None or tokens.ndim != 2 or tokens.shape[1] >= length.max:
            return tokens
        return fill_up(tokens, length.max, length.padding)

    def _check(self, shape: tuple[int, ...], dtype: str) -> None:
        """Refuse what would be read as other pixels than it is."""
        wanted = np.dtype(self.binding.input_type).name
        if shape[1:] != self.binding.input_shape or dtype != wanted or not shape[0]:
            raise RunFailed(
                f"export: the engine was given {dtype} samples of shape {shape}. Allowed: {wanted} "
                f"and (N, {', '.join(map(str, self.binding.input_shape))}) with N of at least 1."
            )


def parts(total: int, largest: int) -> Iterator[slice]:
    """Split `total` images into the fewest parts of at most `largest`, as even as can be.

    Even parts keep the last one from being a straggler below an engine's smallest batch.
    """
    count = ceil(total / largest)
    edges = [index * total // count for index in range(count + 1)]
    for start, stop in pairwise(edges):
        yield slice(start, stop)
