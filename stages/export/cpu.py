"""CPU: the instructions that decide which INT8 form is exact and fast on this machine."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_X86 = ("x86_64", "AMD64", "i686")
_MATTER = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8")


@cache
def cpu_flags() -> frozenset[str]:
    """Return the features the kernel reports for the CPU; empty where it reports none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    return parse_flags(text)


def parse_flags(cpuinfo: str) -> frozenset[str]:
    """Return the features that the first processor in the text of ``/proc/cpuinfo`` has."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def saturates(machine: str, flags: frozenset[str]) -> bool:
    """Tell whether 8-bit products of this CPU may overflow their 16-bit sums.

    x86 without VNNI multiplies unsigned by signed bytes and adds pairs in 16 bits, which clips;
    weights of 7 bits cannot reach the limit. Where the flags are unknown the safe answer is yes.
    """
    return machine in _X86 and not {"avx512_vnni", "avx_vnni"} & flags


def needs_reduced_range() -> bool:
    """Tell whether INT8 weights must be kept to 7 bits on this machine."""
    return saturates(platform.machine(), cpu_flags())


def relevant_flags() -> str:
    """Return the features that change what INT8 or FP16 cost here, in one line."""
    return " ".join(flag for flag in _MATTER if flag in cpu_flags()) or platform.machine()
