"""Bf16 units: whether a CPU has them, and whether a layer may be rewritten to make use of them.

torch's matrix products reach them in any shape, its other kernels in bf16 often do not. Measured
on x86 only, with AMX (Xeon) and without (Zen 4); elsewhere layers stay as they are.
"""

from __future__ import annotations

import torch


def computes_in_bf16(images: torch.Tensor) -> bool:
    """Tell whether a layer that gets these is trained in bf16, on a CPU with units for it."""
    return (
        images.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and has_bf16_units()
    )


def has_bf16_units() -> bool:
    """Tell whether the CPU multiplies in bf16: by dot products of AVX-512, or by AMX."""
    return bool(torch.cpu._is_avx512_bf16_supported()) or has_amx()


def has_amx() -> bool:
    """Tell whether the CPU multiplies matrices in bf16 by units of their own."""
    return bool(torch.cpu._is_amx_tile_supported())
