"""Slot: one lane of a runner: a stream, an execution context, and buffers that grow with the batch.

host array -> pinned input -> device input -> engine -> device output -> pinned output -> host array
           copied at once     ------------- queued on the slot's stream ------------     on collect
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StageFailed
from stages.export.arrays import Images
from stages.export.backends import BatchProfile
from stages.export.engine.api import Execution
from stages.export.engine.cuda import Cuda, DeviceBuffer, PinnedArray, Stream


class RunFailed(StageFailed):
    """An engine did not take a batch, or its work did not get through the GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """The one input and the one output of an engine, without the batch axis."""

    input: str
    input_shape: tuple[int, ...]
    output: str
    output_shape: tuple[int, ...]
    profile: BatchProfile
    input_type: type[np.uint8] | type[np.int32] = np.uint8
    """int32 for the tokens of texts; `input_shape` is then that of the longest."""

    def padded(self, batch: int) -> int:
        """Return the batch size to run: an engine takes none below its profile's smallest."""
        return max(batch, self.profile.min)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Buffers:
    """Memory for up to `capacity` images on both sides."""

    capacity: int
    pinned_input: PinnedArray[np.uint8 | np.int32]
    pinned_output: PinnedArray[np.float32]
    device_input: DeviceBuffer
    device_output: DeviceBuffer

    def free(self) -> None:
        """Give everything back."""
        for piece in (
            self.pinned_input, self.pinned_output, self.device_input, self.device_output,
        ):  # fmt: skip
            piece.free()


@dataclass
class Slot:
    """One lane; `launch` returns at once and `collect` waits."""

    cuda: Cuda
    execution: Execution
    binding: Binding
    stream: Stream = field(init=False)
    _buffers: _Buffers | None = None
    _target: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Open the stream."""
        self.stream = self.cuda.stream()

    def launch(self, images: Images, target: NDArray[np.float32]) -> None:
        """Queue a batch of the binding's shape.

        Its logits are in `target` (N, classes) after `collect`.
        """
        assert self._target is None, "collect first"
        batch = self.binding.padded(len(images))
        buffers = self._reserve(batch)
        staged = buffers.pinned_input.array[:batch]
        staged[: len(images)] = images
        logits = buffers.pinned_output.array[:batch]
        try:
            self.cuda.copy_to_device(buffers.device_input, staged, self.stream)
            execute(
                self.execution, self.binding, batch, self.stream.handle,
                buffers.device_input.address, buffers.device_output.address,
            )  # fmt: skip
            self.cuda.copy_to_host(logits, buffers.device_output, self.stream)
        except BaseException:
            # What is queued still reads and writes these buffers.
            self.stream.synchronize()
            raise
        self._target = target

    def collect(self) -> None:
        """Wait for the batch in flight, if there is one, and hand its logits over."""
        if self._target is None:
            return
        assert self._buffers is not None
        target, self._target = self._target, None
        self.stream.synchronize()
        target[:] = self._buffers.pinned_output.array[: len(target)]

    def abandon(self) -> None:
        """Wait for the batch in flight and forget it."""
        self._target = None
        self.stream.synchronize()

    def close(self) -> None:
        """Wait and free the buffers."""
        self.abandon()
        self._drop_buffers()

    def _reserve(self, batch: int) -> _Buffers:
        """Return buffers for a batch; they at least double, so growing batches rarely wait."""
        if self._buffers is None or self._buffers.capacity < batch:
            doubled = 2 * self._buffers.capacity if self._buffers else 0
            self._drop_buffers()
            self._buffers = self._allocate(max(batch, min(doubled, self.binding.profile.max)))
        return self._buffers

    def _allocate(self, capacity: int) -> _Buffers:
        """Allocate all four buffers or none."""
        with ExitStack() as undo:
            shape = (capacity, *self.binding.input_shape)
            pinned_input: PinnedArray[np.uint8 | np.int32] = self.cuda.pinned(
                shape, self.binding.input_type
            )
            undo.callback(pinned_input.free)
            pinned_output = self.cuda.pinned((capacity, *self.binding.output_shape), np.float32)
            undo.callback(pinned_output.free)
            device_input = self.cuda.allocate(pinned_input.array.nbytes)
            undo.callback(device_input.free)
            device_output = self.cuda.allocate(pinned_output.array.nbytes)
            undo.pop_all()
        return _Buffers(
            capacity=capacity,
            pinned_input=pinned_input,
            pinned_output=pinned_output,
            device_input=device_input,
            device_output=device_output,
        )

    def _drop_buffers(self) -> None:
        if self._buffers is not None:
            self._buffers.free()
            self._buffers = None


def execute(
    execution: Execution, binding: Binding, batch: int, stream: int, source: int, target: int
) -> None:
    """Queue one run of the engine from and to device addresses.

    Raises:
        RunFailed: TensorRT refused the shape, an address, or the run.
    """
    shape = (batch, *binding.input_shape)
    refused = ""
    if not execution.set_input_shape(binding.input, shape):
        refused = "the shape"
    elif not execution.set_tensor_address(binding.input, source):
        refused = "the input's address"
    elif not execution.set_tensor_address(binding.output, target):
        refused = "the output's address"
    elif not execution.execute_async_v3(stream):
        refused = "the run"
    if refused:
        raise RunFailed(
            f"export: TensorRT refused {refused} of a batch of shape {shape}. The engine takes "
            f"batches of {binding.profile.min} to {binding.profile.max}."
        )
