"""Shared: memory that several processes see and that has no name, so that nothing stays behind.

    shared = Shared.of_size(1 << 20)
    weight = shared.tensor(offset, layout)      # in another process: Shared(fd, size).tensor(...)

The kernel frees it when the last process that has it open ends, however it ends.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from stages.train.gpipe.probe import Layout

ALIGNMENT = 64
"""Bytes of a cache line, and of the widest vector register."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor's place in a piece of memory."""

    offset: int
    layout: Layout


class Shared:
    """One piece of memory, known to each process by a file descriptor."""

    def __init__(self, fd: int, num_bytes: int) -> None:
        self.fd, self.num_bytes = fd, num_bytes
        self.memory = mmap.mmap(fd, num_bytes)

    @classmethod
    def of_size(cls, num_bytes: int) -> Shared:
        """Reserve memory, filled with zeros."""
        fd = os.memfd_create("dlpipe", os.MFD_CLOEXEC)
        num_bytes = max(num_bytes, mmap.PAGESIZE)
        os.ftruncate(fd, num_bytes)
        return cls(fd, num_bytes)

    def tensor(self, place: Place) -> torch.Tensor:
        """Return a tensor at that place; it keeps the memory alive."""
        layout = place.layout
        count = torch.Size(layout.shape).numel()
        if count == 0:
            return torch.empty(layout.shape, dtype=layout.dtype)
        flat = torch.frombuffer(self.memory, dtype=layout.dtype, count=count, offset=place.offset)
        return flat.as_strided(layout.shape, layout.stride)

    def close(self) -> None:
        """Close the descriptor; the memory lives on as long as a tensor in it."""
        os.close(self.fd)


class Allocator:
    """Hands out places one after the other."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def place(self, layout: Layout) -> Place:
        """Return the next place for a tensor."""
        place = Place(self.num_bytes, layout)
        self.num_bytes += -(-layout.num_bytes // ALIGNMENT) * ALIGNMENT
        return place

    def places(self, layouts: Iterable[Layout]) -> tuple[Place, ...]:
        """Return the next places for several tensors."""
        return tuple(map(self.place, layouts))
