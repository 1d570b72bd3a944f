from __future__ import annotations

import pytest

from pipeline.device import CPU, Device, cuda_device_count, resolve_device
from pipeline.errors import ConfigError


def test_the_cpu_has_no_dali_id() -> None:
    assert CPU.dali_id is None
    assert Device("cuda", 2).dali_id == 2


def test_auto_takes_a_gpu_only_if_there_is_one() -> None:
    assert resolve_device("auto").is_cuda == (cuda_device_count() > 0)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CPU", ""])
def test_other_names_are_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(ConfigError, match="is no device. Allowed: auto, cpu, cuda, cuda:N"):
        resolve_device(name)


def test_a_device_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(ConfigError, match="'cuda:99' is not there"):
        resolve_device("cuda:99")


@pytest.mark.gpu
@pytest.mark.skipif(cuda_device_count() == 0, reason="needs a CUDA device")
def test_a_gpu_is_found_by_its_number_gpu() -> None:
    assert str(resolve_device("cuda")) == "cuda:0"


def test_the_cpu_is_found_by_its_name_cpu() -> None:
    assert str(resolve_device("cpu")) == "cpu"
