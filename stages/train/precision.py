"""Precision: which number format the forward and backward pass use, and why.

choice = resolve_precision("auto", device)     # Precision("bf16"), "the CPU has bf16 units"
with choice.autocast(device): loss = ...
scaler = choice.scaler(device)                 # does nothing unless fp16
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.device import Device
from pipeline.errors import ConfigError
from stages.train.attention import QuickAttention
from stages.train.bf16_units import has_bf16_units

Name = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """Which short formats the hardware computes in, rather than emulates."""

    bf16: bool
    fp16: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """The precision in use, why, and what a user should know about it."""

    name: Name
    reason: str
    warning: str = ""

    def autocast(self, device: Device) -> AbstractContextManager[object]:
        """Return the autocast context of a forward pass; for fp32 there is none to enter."""
        if self.name == "fp32":
            return nullcontext()
        autocast = torch.autocast(device.kind, DTYPES[self.name])
        is_quick = self.name == "bf16" and not device.is_cuda and has_bf16_units()
        return _with_quick_attention(autocast) if is_quick else autocast

    def scaler(self, device: Device) -> torch.amp.GradScaler:
        """Return the loss scaler: at work for fp16 only, since bf16 has the range of fp32."""
        return torch.amp.GradScaler(device.kind, enabled=self.name == "fp16")


FP32 = Precision(name="fp32", reason="the reference of every later stage")


@contextmanager
def _with_quick_attention(autocast: torch.autocast) -> Iterator[None]:
    with autocast, QuickAttention():
        yield


def detect_units(device: Device) -> Units:
    """Ask the hardware which short formats it computes in."""
    if device.is_cuda:
        return Units(bf16=torch.cuda.is_bf16_supported(including_emulation=False), fp16=True)
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Units(bf16=False, fp16=False)
    # oneDNN also says "supported" where it emulates, so the instruction set has the last word.
    has = torch.cpu.get_capabilities()
    bf16_units = has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16")
    fp16_units = has.get("avx512_fp16") or has.get("amx_fp16") or has.get("fp16_arith")
    return Units(
        bf16=bool(bf16_units) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        fp16=bool(fp16_units) and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),
    )


def resolve_precision(choice: str, device: Device, units: Units | None = None) -> Precision:
    """Resolve ``auto`` and judge what was asked for by name against the hardware.

    Raises:
        ConfigError: fp16 on a CPU that can only emulate it.
    """
    units = units or detect_units(device)
    place = "GPU" if device.is_cuda else "CPU"
    if choice == "auto":
        if units.bf16:
            return Precision(name="bf16", reason=f"the {place} has bf16 units")
        if device.is_cuda:
            return Precision(name="fp16", reason="the GPU has no bf16 units, but fp16 units")
        return Precision(name="fp32", reason="the CPU has no bf16 units")
    asked = "set by train.precision"
    if choice == "fp32":
        return Precision(name="fp32", reason=asked)
    if choice == "bf16":
        return Precision(name="bf16", reason=asked, warning=_emulated("bf16", place, units.bf16))
    if choice == "fp16" and not units.fp16:
        raise ConfigError(
            f"stages.train.precision: 'fp16' is refused: this {place} has no fp16 units, and "
            "emulating them is about ten times slower than fp32. Use precision: auto, or "
            "fp16_emulated if you want it all the same."
        )
    return Precision(name="fp16", reason=asked, warning=_emulated("fp16", place, units.fp16))


def _emulated(name: str, place: str, has_units: bool) -> str:
    if has_units:
        return ""
    return (
        f"train.precision: '{name}' gains nothing here: this {place} has no {name} units and "
        "emulates them, up to ten times slower than fp32. Use precision: auto."
    )
