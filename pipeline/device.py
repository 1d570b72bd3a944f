"""Device: ``auto | cpu | cuda:N`` resolved once. The only place that asks "is this CUDA?"."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pipeline.errors import ConfigError

_CUDA_SUCCESS = 0


@dataclass(frozen=True, slots=True)
class Device:
    """A place where tensors live: the CPU, or one CUDA device."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    @property
    def is_cuda(self) -> bool:
        """Whether this is a CUDA device."""
        return self.kind == "cuda"

    @property
    def dali_id(self) -> int | None:
        """DALI's ``device_id``: None on the CPU (never -1), the ordinal on CUDA."""
        return self.index if self.is_cuda else None

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.is_cuda else "cpu"


CPU = Device("cpu")


@cache
def cuda_device_count() -> int:
    """Return how many CUDA devices the driver offers, without importing a framework."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != _CUDA_SUCCESS:
        return 0
    if driver.cuDeviceGetCount(ctypes.byref(count)) != _CUDA_SUCCESS:
        return 0
    return count.value


def resolve_device(name: str) -> Device:
    """Resolve ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: the name is not one of these, or the machine has no such device.
    """
    if name == "auto":
        return Device("cuda", 0) if cuda_device_count() else CPU
    if name == "cpu":
        return CPU
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise ConfigError(f"device: {name!r} is no device. Allowed: auto, cpu, cuda, cuda:N.")
    index = int(match[1] or 0)
    if index >= cuda_device_count():
        raise ConfigError(
            f"device: {name!r} is not there; the CUDA driver offers {cuda_device_count()} "
            "device(s). Use device: auto or cpu, or see `dlpipe doctor`."
        )
    return Device("cuda", index)
