"""Link: carries tensors from one device to another, beside what both compute.

On CUDA a copy waits for what made the tensors and for nothing else: it runs on streams of its own
on both devices. Between CPU "devices" there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Tensors = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Parcel:
    """Tensors, and the event after which they are there."""

    tensors: Tensors
    ready: torch.cuda.Event | None = None


class Link(Protocol):
    """One direction of one boundary. `pack` is called by the sender, `unpack` by the receiver."""

    def pack(self, tensors: Tensors) -> Parcel:
        """Hand tensors over without waiting for them."""
        ...

    def unpack(self, parcel: Parcel) -> Tensors:
        """Return the tensors on the receiver's device; what is computed next waits for them."""
        ...


class SameMemory:
    """Between stages that see the same memory."""

    def pack(self, tensors: Tensors) -> Parcel:
        """Hand the tensors themselves over."""
        return Parcel(tensors)

    def unpack(self, parcel: Parcel) -> Tensors:
        """Return the tensors themselves."""
        return parcel.tensors


class CudaLink:
    """Between two CUDA devices."""

    def __init__(self, source: torch.device, target: torch.device) -> None:
        self._source, self._target = source, target
        self._leaving = torch.cuda.Stream(source)  # type: ignore[no-untyped-call]
        self._arriving = torch.cuda.Stream(target)  # type: ignore[no-untyped-call]

    def pack(self, tensors: Tensors) -> Parcel:
        """Note the point in the sender's stream after which the tensors are there."""
        return Parcel(tensors, torch.cuda.current_stream(self._source).record_event())

    def unpack(self, parcel: Parcel) -> Tensors:
        """Copy on streams of their own, and let the receiver's stream wait for the copy."""
        assert parcel.ready is not None
        self._leaving.wait_event(parcel.ready)
        receiver = torch.cuda.current_stream(self._target)
        # A copy runs on the current stream of its source and is awaited by that of its target.
        with torch.cuda.stream(self._leaving), torch.cuda.stream(self._arriving):
            moved = tuple(
                tensor if tensor is None else tensor.to(self._target, non_blocking=True)
                for tensor in parcel.tensors
            )
        receiver.wait_stream(self._arriving)
        for before, after in zip(parcel.tensors, moved, strict=True):
            if before is not None and after is not None:
                before.record_stream(self._leaving)
                after.record_stream(receiver)
        return moved


def link(source: torch.device, target: torch.device) -> Link:
    """Return what carries tensors from one device to another."""
    return SameMemory() if source == target else CudaLink(source, target)


def own_devices(device: torch.device, stages: int) -> Sequence[torch.device]:
    """Return a device for each stage: the CUDA devices in order, or the CPU for all."""
    if device.type != "cuda":
        return [device] * stages
    return [torch.device("cuda", number) for number in range(stages)]
