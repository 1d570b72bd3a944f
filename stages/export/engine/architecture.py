"""architecture: which GPU generation an engine is compiled for, in NVIDIA's spelling (``SM89``)."""

from __future__ import annotations

import ctypes
from functools import cache

from pipeline.device import Device

CURRENT = "CURRENT"
"""The architecture of the GPU at hand, in the spelling of `ComputeCapability`."""
PORTABLE = ("SM80", "SM86", "SM89", "SM120", "SM121")
"""What TensorRT-RTX builds for when no GPU is here: Ampere, Ada and Blackwell, in one engine.

Turing (SM75) is left out: it has no fp32 matrix products, so that most INT8 graphs do not compile
for it.
"""
_CUDA_SUCCESS = 0
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@cache
def architecture(device: Device) -> str:
    """Return a CUDA device's architecture; an empty string for the CPU."""
    if not device.is_cuda:
        return ""
    driver = ctypes.CDLL("libcuda.so.1")
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    for code in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(handle), device.index),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, handle),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, handle),
    ):
        if code != _CUDA_SUCCESS:
            raise OSError(f"{device}: the CUDA driver answered with error {code}.")
    return f"SM{major.value}{minor.value}"
