"""host: a stand-in for a CUDA device in plain memory, with ONNX Runtime for an engine.

The CPU twin of `pycuda_memory`: it runs the runner for real, on machines without a GPU. Its streams
do nothing until they are synchronized, so that code that forgets to wait reads old bytes here,
every time, and not once in a while.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from stages.export.engine.cuda import DeviceBuffer, Element, Stream


class HostMemoryError(Exception):
    """What a GPU would answer with an error, or with silent corruption."""


@dataclass
class HostBuffer:
    """Device memory that is host memory."""

    owner: HostCuda
    nbytes: int
    _memory: NDArray[np.uint8] | None

    @property
    def address(self) -> int:
        """Where it lies."""
        return int(self.memory.ctypes.data)

    @property
    def memory(self) -> NDArray[np.uint8]:
        """Its bytes.

        Raises:
            HostMemoryError: it was given back.
        """
        if self._memory is None:
            raise HostMemoryError("used after it was freed")
        return self._memory

    def free(self) -> None:
        """Give it back."""
        if self._memory is not None:
            self._memory = None
            self.owner.give_back(self.nbytes)


@dataclass
class HostPinned(Generic[Element]):
    """A host array that is counted like page-locked memory."""

    owner: HostCuda
    array: NDArray[Element]
    freed: bool = False

    def free(self) -> None:
        """Give it back."""
        if not self.freed:
            self.freed = True
            self.owner.give_back(self.array.nbytes)


@dataclass
class HostStream:
    """A queue that works when it is waited for."""

    handle: int
    _queue: list[Callable[[], None]] = field(default_factory=list)

    def put(self, work: Callable[[], None]) -> None:
        """Queue work."""
        self._queue.append(work)

    def synchronize(self) -> None:
        """Do all that is queued, in order."""
        work, self._queue = self._queue, []
        for item in work:
            item()


@dataclass
class HostCuda:
    """A device whose memory is the host's."""

    limit_bytes: int = 1 << 40
    """How much memory it has, page-locked memory included."""
    live_bytes: int = 0
    """How much is given out."""
    streams: dict[int, HostStream] = field(default_factory=dict)
    closed: bool = False
    _depth: int = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Count as current."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def allocate(self, nbytes: int) -> HostBuffer:
        """Return device memory, filled with what nobody should read."""
        self._take(nbytes)
        return HostBuffer(self, nbytes, np.full(nbytes, 0xA5, np.uint8))

    def pinned(self, shape: tuple[int, ...], dtype: type[Element]) -> HostPinned[Element]:
        """Return a counted host array."""
        array = np.zeros(shape, dtype)
        self._take(array.nbytes)
        return HostPinned(self, array)

    def stream(self) -> HostStream:
        """Return a new stream."""
        self._require_active()
        stream = HostStream(handle=len(self.streams) + 1)
        self.streams[stream.handle] = stream
        return stream

    def synchronize(self) -> None:
        """Do all that is queued on every stream."""
        self._require_active()
        for stream in self.streams.values():
            stream.synchronize()

    def copy_to_device(
        self, target: DeviceBuffer, source: NDArray[np.generic], stream: Stream
    ) -> None:
        """Queue a copy into device memory."""
        self._queue_copy(target, source, stream, lambda memory: _copy(memory, _bytes(source)))

    def copy_to_host(
        self, target: NDArray[np.generic], source: DeviceBuffer, stream: Stream
    ) -> None:
        """Queue a copy out of device memory."""
        self._queue_copy(source, target, stream, lambda memory: _copy(_bytes(target), memory))

    def close(self) -> None:
        """Say that it is done with.

        Raises:
            HostMemoryError: memory was not given back.
        """
        self.closed = True
        if self.live_bytes:
            raise HostMemoryError(f"{self.live_bytes} bytes were not freed")

    def give_back(self, nbytes: int) -> None:
        """Count memory as free again."""
        self._require_active()
        self.live_bytes -= nbytes

    def _take(self, nbytes: int) -> None:
        self._require_active()
        if self.live_bytes + nbytes > self.limit_bytes:
            raise HostMemoryError(f"out of memory: {nbytes} bytes more than {self.limit_bytes}")
        self.live_bytes += nbytes

    def _require_active(self) -> None:
        if not self._depth:
            raise HostMemoryError("called while no context is current")

    def _queue_copy(
        self,
        buffer: DeviceBuffer,
        array: NDArray[np.generic],
        stream: Stream,
        copy: Callable[[NDArray[np.uint8]], None],
    ) -> None:
        self._require_active()
        if array.nbytes > buffer.nbytes:
            raise HostMemoryError(f"a copy of {array.nbytes} bytes and {buffer.nbytes} allocated")
        if not array.flags.c_contiguous:
            raise HostMemoryError("a copy of an array with gaps")
        assert isinstance(buffer, HostBuffer)
        self.streams[stream.handle].put(lambda: copy(buffer.memory[: array.nbytes]))


_TYPES = {"tensor(uint8)": "uint8", "tensor(int32)": "int32"}


@dataclass
class OnnxExecution:
    """Answers like an execution context, and computes with ONNX Runtime between two addresses."""

    cuda: HostCuda
    session: onnxruntime.InferenceSession
    largest: int
    """The largest batch it takes."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, cuda: HostCuda, path: Path, largest: int) -> OnnxExecution:
        """Load a graph with one uint8 or int32 input and one float32 output."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return cls(cuda, session, largest)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Take a shape, unless the batch is too large or the input unknown."""
        self.shapes[name] = shape
        return name == self.session.get_inputs()[0].name and 1 <= shape[0] <= self.largest

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Take an address."""
        self.addresses[name] = address
        return address != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue the computation; on stream 0 it is done at once."""
        source, target = self.session.get_inputs()[0], self.session.get_outputs()[0]
        shape = self.shapes[source.name]
        read_from, write_to = self.addresses[source.name], self.addresses[target.name]

        def compute() -> None:
            kind = np.dtype(_TYPES[source.type])
            memory = _at(read_from, int(np.prod(shape)) * kind.itemsize)
            given = memory.view(kind).reshape(shape)
            (logits,) = self.session.run([target.name], {source.name: given})
            _copy(_at(write_to, logits.nbytes), _bytes(logits))

        if stream_handle:
            self.cuda.streams[stream_handle].put(compute)
        else:
            compute()
        return True


def _at(address: int, nbytes: int) -> NDArray[np.uint8]:
    """Return the bytes at an address."""
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
    return np.ctypeslib.as_array(pointer, (nbytes,))


def _bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return an array's memory as bytes."""
    return array.reshape(-1).view(np.uint8)


def _copy(target: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
    target[...] = source
