"""Kernels: those in C++ for a tensor, where it is one that they take.

`DLPIPE_MAPS=torch` in the environment leaves feature maps to torch; `avx512`, `avx2` or `plain`
names an instruction set. All of them give the same bits, with any number of threads; only that
``avx512_bf16`` rounds subnormal numbers to 0 in bf16.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

import torch

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from stages.train.maps import _kernels

    Kernels = _kernels.Fp32 | _kernels.Bf16

VARIABLE = "DLPIPE_MAPS"


def kernels_for(maps: torch.Tensor) -> Kernels | None:
    """Return the kernels for maps (N, C, H, W); None: torch has to compute with them.

    Kernels take fp32 and bf16, channels last, in plain tensors that hold their values: not what
    a compiler or planner shows a layer instead.

    Raises:
        ConfigError: the environment names what is not there.
    """
    suits = (
        type(maps) is torch.Tensor
        and maps.device.type == "cpu"
        and maps.dim() == 4
        and not torch.compiler.is_compiling()
        and maps.is_contiguous(memory_format=torch.channels_last)
    )
    return _kernels_of(os.environ.get(VARIABLE, "")).get(maps.dtype) if suits else None


def isas() -> list[str]:
    """Return the instruction sets that kernels are there for, best first; none without them."""
    try:
        native: list[str] = import_module("stages.train.maps._kernels").isas()
    except ImportError:  # the package was installed without a compiler
        return []
    return native


@cache
def _kernels_of(name: str) -> dict[torch.dtype, Kernels]:
    there = [*isas(), "torch"]
    if name and name not in there:
        raise ConfigError(
            f"{VARIABLE}: '{name}' cannot compute here. Allowed: {', '.join(there)}."
            f"{nearest(name, there)}"
        )
    chosen = name or there[0]
    if chosen == "torch":
        return {}
    native = import_module("stages.train.maps._kernels")
    return {torch.float32: native.Fp32(chosen), torch.bfloat16: native.Bf16(chosen)}
