"""Cuda: the few calls that the runner needs, as Protocols, for a GPU and for plain memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Element = TypeVar("Element", bound=np.generic, covariant=True)


class DeviceBuffer(Protocol):
    """A piece of device memory."""

    @property
    def address(self) -> int:
        """Where it lies."""
        ...

    @property
    def nbytes(self) -> int:
        """How large it is."""
        ...

    def free(self) -> None:
        """Give it back; doing so twice does nothing."""
        ...


class PinnedArray(Protocol[Element]):
    """A page-locked host array: the only kind that is copied asynchronously."""

    @property
    def array(self) -> NDArray[Element]:
        """The array."""
        ...

    def free(self) -> None:
        """Give it back; doing so twice does nothing."""
        ...


class Stream(Protocol):
    """A queue of work, done in order, and surely done when `synchronize` returns."""

    @property
    def handle(self) -> int:
        """What TensorRT is handed."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        ...


class Cuda(Protocol):
    """A CUDA device, or something that stands in for one."""

    def active(self) -> AbstractContextManager[None]:
        """Make the device's context the current one; every call below is made inside."""
        ...

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Return device memory."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: type[Element]) -> PinnedArray[Element]:
        """Return a page-locked host array."""
        ...

    def stream(self) -> Stream:
        """Return a new stream."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued on any stream is done."""
        ...

    def copy_to_device(
        self, target: DeviceBuffer, source: NDArray[np.generic], stream: Stream
    ) -> None:
        """Queue a copy; `source` must stay as it is until the stream is synchronized."""
        ...

    def copy_to_host(
        self, target: NDArray[np.generic], source: DeviceBuffer, stream: Stream
    ) -> None:
        """Queue a copy; `target` is valid after the stream is synchronized."""
        ...

    def close(self) -> None:
        """Say that nothing more will be asked; all memory was freed before."""
        ...
