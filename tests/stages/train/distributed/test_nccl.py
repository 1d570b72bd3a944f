"""What NCCL carries between GPUs; the CPU twin of each test is in test_launch.py, over gloo."""

from __future__ import annotations

import pytest

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.device import CPU, Device, cuda_device_count
from pipeline.events import EventLog
from pipeline.store import load_artifact
from stages.train.config import TrainConfig
from stages.train.stage import Train


def train(attempts, neighbour, folder, device: Device, **launch: object):
    scenarios = neighbour("scenarios")
    spec = load_artifact(DataSpec, attempts.folder / "data")
    context = Context(
        dir=folder, device=device, artifacts={DataSpec: spec}, events=EventLog(stage="train")
    )
    recipe = {**scenarios.RECIPE, "launch": {"processes": 2, "max_restarts": 0, **launch}}
    return Train(TrainConfig.model_validate(recipe)).run(context)


@pytest.mark.gpu
@pytest.mark.skipif(cuda_device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.timeout(400)
def test_two_gpus_train_what_one_cpu_trains_gpu(attempts, neighbour, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(attempts.nets))
    trained = train(attempts, neighbour, tmp_path, Device("cuda", 0), backend="nccl")
    assert trained.metrics["top1"] == pytest.approx(attempts.metrics("alone")["top1"], abs=0.05)


def test_nccl_is_refused_on_a_cpu_before_anything_starts():
    config = TrainConfig.model_validate({"launch": {"processes": 2, "backend": "nccl"}})
    (problem,) = Train(config).check(CPU)
    assert problem.path == "launch.backend"
    assert "'nccl' carries tensors between GPUs" in problem.message
    assert Train(config).check(Device("cuda", 0)) == []
