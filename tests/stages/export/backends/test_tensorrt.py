from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.backend import named
from pipeline.context import Context
from pipeline.device import CPU, Device
from pipeline.errors import BackendUnavailable
from stages.export.backends import BACKENDS, BatchProfile, tensorrt


def test_it_takes_the_signed_form_of_int8() -> None:
    assert tensorrt.INT8_FORM == "s8s8"


def test_it_is_not_available_without_a_gpu() -> None:
    why_not = named(BACKENDS, "tensorrt", where="test").why_not(CPU)
    assert why_not == "needs a cuda device, and the device is cpu"
    assert named(BACKENDS, "tensorrt", where="test").why_not(Device("cuda")) != why_not


def test_building_without_a_gpu_is_an_error_that_names_the_backend_that_can(
    tmp_path: Path,
) -> None:
    graph, profile = tmp_path / "net.onnx", BatchProfile()
    with pytest.raises(BackendUnavailable, match=r"or backend: tensorrt-rtx, which builds without"):
        tensorrt.build(graph, "fp32", profile, tmp_path, Context(dir=tmp_path))
