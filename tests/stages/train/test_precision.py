"""Which precision is taken on which hardware."""

from __future__ import annotations

import pytest
import torch

from pipeline.device import CPU, Device
from pipeline.errors import ConfigError
from stages.train.config import TrainConfig
from stages.train.precision import Units, detect_units, resolve_precision
from stages.train.stage import Train

CUDA = Device("cuda")


@pytest.mark.parametrize(
    ("choice", "device", "bf16", "fp16", "expected", "warns"),
    [
        ("auto", CPU, True, False, "bf16", False),
        ("auto", CPU, True, True, "bf16", False),
        ("auto", CPU, False, True, "fp32", False),
        ("auto", CPU, False, False, "fp32", False),
        ("auto", CUDA, True, True, "bf16", False),
        ("auto", CUDA, False, True, "fp16", False),
        ("fp32", CPU, True, True, "fp32", False),
        ("bf16", CPU, True, False, "bf16", False),
        ("bf16", CPU, False, False, "bf16", True),
        ("bf16", CUDA, False, True, "bf16", True),
        ("fp16_emulated", CPU, True, False, "fp16", True),
        ("fp16_emulated", CPU, True, True, "fp16", False),
        ("fp16", CPU, True, True, "fp16", False),
        ("fp16", CUDA, True, True, "fp16", False),
    ],
)
def test_the_table_of_choices(choice, device, bf16, fp16, expected, warns):
    precision = resolve_precision(choice, device, Units(bf16=bf16, fp16=fp16))
    assert precision.name == expected
    assert precision.reason
    assert bool(precision.warning) == warns
    if warns:
        assert "train.precision" in precision.warning
        assert "Use precision: auto" in precision.warning


def test_fp16_on_a_cpu_without_its_units_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"'fp16' is refused: this CPU has no fp16 units.*ten ti"):
        resolve_precision("fp16", CPU, Units(bf16=True, fp16=False))


def test_the_refusal_comes_before_anything_starts(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    (problem,) = Train(TrainConfig(precision="fp16")).check(CPU)
    assert problem.path == "precision"
    assert "fp16_emulated" in problem.message
    assert Train(TrainConfig(precision="fp16_emulated")).check(CPU) == []


def test_fp32_enters_no_autocast():
    with resolve_precision("fp32", CPU).autocast(CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_this_machine_is_asked_and_not_assumed():
    units = detect_units(CPU)
    flags = torch.cpu.get_capabilities()
    if flags.get("architecture") == "x86_64":
        assert units.bf16 == bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def test_only_fp16_scales_its_loss():
    units = Units(bf16=True, fp16=True)
    enabled = {
        n: resolve_precision(n, CPU, units).scaler(CPU).is_enabled()
        for n in ("fp32", "bf16", "fp16")
    }
    assert enabled == {"fp32": False, "bf16": False, "fp16": True}


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_matrix_products_run_in_the_chosen_precision(name, dtype):
    precision = resolve_precision(name, CPU, Units(bf16=True, fp16=True))
    with precision.autocast(CPU):
        assert (torch.rand(4, 4) @ torch.rand(4, 4)).dtype == dtype
