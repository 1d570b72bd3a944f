"""pycuda_memory: the `Cuda` of a real device, through pycuda, in the primary context.

The primary context is the one that torch uses too, so that both work on the same memory. pycuda
comes with the extra ``gpu`` and is imported here and nowhere else.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Generic

import numpy as np
import pycuda.driver
from numpy.typing import NDArray

from stages.export.engine.cuda import DeviceBuffer, Element, Stream


@dataclass
class PycudaBuffer:
    """Device memory."""

    nbytes: int
    _allocation: pycuda.driver.DeviceAllocation | None

    @property
    def address(self) -> int:
        """Where it lies."""
        assert self._allocation is not None, "used after it was freed"
        return int(self._allocation)

    def free(self) -> None:
        """Give it back."""
        if self._allocation is not None:
            self._allocation.free()
            self._allocation = None


@dataclass
class PycudaPinned(Generic[Element]):
    """A page-locked array; its memory is the allocation at the root of the numpy array."""

    array: NDArray[Element]
    _freed: bool = False

    def free(self) -> None:
        """Give it back now, not when the last view of it happens to go."""
        if not self._freed:
            self._freed = True
            self.array.base.free()  # type: ignore[union-attr]


@dataclass
class PycudaStream:
    """A CUDA stream."""

    stream: pycuda.driver.Stream

    @property
    def handle(self) -> int:
        """The CUstream."""
        return int(self.stream.handle)

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        self.stream.synchronize()


@cache
def primary_context(index: int) -> pycuda.driver.Context:
    """Return the primary context of a device; it is kept as long as the process lives.

    Torch does the same, and releasing it earlier is no choice: pycuda's `detach` leaves a primary
    context on the driver's stack.
    """
    pycuda.driver.init()
    context = pycuda.driver.Device(index).retain_primary_context()
    # Without this, pycuda's own clean-up takes it for a context that it made, and complains.
    atexit.register(context.detach)
    return context


@dataclass
class PycudaCuda:
    """A CUDA device."""

    index: int

    @contextmanager
    def active(self) -> Iterator[None]:
        """Push the context, and pop it afterwards: whoever was current is current again."""
        primary_context(self.index).push()
        try:
            yield
        finally:
            pycuda.driver.Context.pop()

    def allocate(self, nbytes: int) -> PycudaBuffer:
        """Return device memory."""
        return PycudaBuffer(nbytes, pycuda.driver.mem_alloc(nbytes))

    def pinned(self, shape: tuple[int, ...], dtype: type[Element]) -> PycudaPinned[Element]:
        """Return a page-locked array."""
        return PycudaPinned(pycuda.driver.pagelocked_empty(shape, dtype))

    def stream(self) -> PycudaStream:
        """Return a new stream."""
        return PycudaStream(pycuda.driver.Stream())

    def synchronize(self) -> None:
        """Wait for the whole device."""
        pycuda.driver.Context.synchronize()

    def copy_to_device(
        self, target: DeviceBuffer, source: NDArray[np.generic], stream: Stream
    ) -> None:
        """Queue a copy into device memory."""
        assert isinstance(stream, PycudaStream)
        pycuda.driver.memcpy_htod_async(target.address, source, stream.stream)

    def copy_to_host(
        self, target: NDArray[np.generic], source: DeviceBuffer, stream: Stream
    ) -> None:
        """Queue a copy out of device memory."""
        assert isinstance(stream, PycudaStream)
        pycuda.driver.memcpy_dtoh_async(target, source.address, stream.stream)

    def close(self) -> None:
        """Do nothing: the primary context belongs to the process."""
