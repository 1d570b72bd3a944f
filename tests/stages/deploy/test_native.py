"""The native backends of a real Triton Inference Server; the CPU twin is in `test_stage`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.backend import named
from pipeline.device import CPU, Device, cuda_device_count
from stages.deploy.backends import BACKENDS
from stages.deploy.config import DeployConfig, LoadConfig
from stages.deploy.stage import Deploy

from .conftest import Chain

WHY_NOT = named(BACKENDS, "tritonserver", where="stages.deploy.backend").why_not(CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_device_count(), reason="needs a CUDA device")
@pytest.mark.skipif(WHY_NOT is not None, reason=f"tritonserver {WHY_NOT}")
def test_the_native_server_answers_as_the_offline_model_does(chain: Chain, tmp_path: Path) -> None:
    config = DeployConfig(backend="tritonserver", load=LoadConfig(concurrency=(1,), seconds=0.5))
    context = replace(chain.context(tmp_path), device=Device("cuda"))
    deployment = Deploy(config).run(context)
    assert deployment.pipeline
    assert all(gate.passed for gate in deployment.gates)
