"""Randomness: what a block draws depends on seed, step, micro-batch and block, and on nothing else.

    with keyed(device, key(seed, step=7, micro_batch=2, block=5)):
        carry = block(carry)        # the same dropout masks again, in a recomputation too

So neither the number of stages, nor the schedule, nor the engine changes a mask.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_locks: dict[torch.device, threading.Lock] = {}


def key(seed: int, *, step: int, micro_batch: int, block: int) -> int:
    """Return 64 bits that no other draw of the run has."""
    packed = struct.pack("<4q", seed % 2**63, step, micro_batch, block)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


@contextmanager
def keyed(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from the start of the stream of that seed.

    A device has one generator, so that stages which share a device take turns with it.
    """
    with _locks.setdefault(device, threading.Lock()):
        _generator(device).manual_seed(seed)
        yield


@contextmanager
def generators_kept(devices: set[torch.device]) -> Iterator[None]:
    """Leave the generators of some devices as they were, whatever is drawn inside."""
    before = {device: _generator(device).get_state() for device in devices}
    try:
        yield
    finally:
        for device, state in before.items():
            _generator(device).set_state(state)


def state_of(device: torch.device) -> torch.Tensor:
    """Return the state of a device's generator: unchanged means that nothing was drawn."""
    return _generator(device).get_state()


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        generators: tuple[torch.Generator, ...] = torch.cuda.default_generators
        return generators[device.index or 0]
    return torch.default_generator
