"""Which kernels compute, and for which tensors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from stages.train.maps.kernels import VARIABLE, isas, kernels_for

ARM_COMPILER = "aarch64-linux-gnu-g++"
NATIVE = Path(__file__).parents[4] / "stages" / "train" / "maps" / "native"


def maps(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(2, 16, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not isas(), reason="installed without a C++ compiler")
def test_kernels_take_fp32_and_bf16_in_channels_last() -> None:
    assert kernels_for(maps()) is not None
    assert kernels_for(maps(torch.bfloat16)) is not None
    assert kernels_for(maps(torch.float64)) is None
    assert kernels_for(maps(torch.float16)) is None
    assert kernels_for(torch.zeros(2, 16, 4, 4)) is None
    assert kernels_for(maps().to("meta")) is None
    assert kernels_for(torch.zeros(2, 16)) is None
    with torch._subclasses.FakeTensorMode() as mode:
        assert kernels_for(mode.from_tensor(maps())) is None


def test_the_environment_leaves_maps_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "torch")
    assert kernels_for(maps()) is None


def test_an_instruction_set_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "torhc")
    with pytest.raises(ConfigError, match=r"'torhc' cannot compute here.*Did you mean 'torch'"):
        kernels_for(maps())


def test_plain_kernels_are_always_there() -> None:
    assert not isas() or isas()[-1] == "plain"


@pytest.mark.skipif(not shutil.which(ARM_COMPILER), reason=f"{ARM_COMPILER}: not installed")
@pytest.mark.parametrize("source", ["batch_norm.cpp", "weight_gradient.cpp", "isa_plain.cpp"])
def test_they_can_be_built_for_arm(source: str, tmp_path: Path) -> None:
    options = ["-std=c++17", "-O3", "-fPIC", "-Wall", "-Werror", "-Wno-psabi", "-c"]
    command = [ARM_COMPILER, *options, str(NATIVE / source), "-o", str(tmp_path / "object.o")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
