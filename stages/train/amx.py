"""AMX: the matrix units of a CPU, and what is rewritten so that convolutions make use of them."""

from __future__ import annotations

import torch


def computes_in_amx(images: torch.Tensor) -> bool:
    """Tell whether a layer that gets these is trained in bf16, on a CPU with AMX."""
    return (
        images.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.cpu._is_amx_tile_supported()
    )
