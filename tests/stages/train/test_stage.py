"""The stage's light side: configuration, checks, fingerprint."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import MissingArtifact
from pipeline.stage import Checks, Fingerprints, load_stage
from stages.train.config import TrainConfig
from stages.train.stage import Train


def test_it_is_found_by_name_and_keeps_the_contract():
    assert load_stage("train") is Train
    assert (Train.requires, Train.produces) == ((DataSpec,), TrainedModel)
    stage = Train(TrainConfig())
    assert isinstance(stage, Checks)
    assert isinstance(stage, Fingerprints)


def test_checking_a_configuration_imports_no_framework():
    program = (
        "import sys\n"
        "from stages.train.stage import Train, TrainConfig\n"
        "from pipeline.device import CPU\n"
        "stage = Train(TrainConfig(model='resnet18'))\n"
        "assert not stage.check(CPU)\n"
        "stage.fingerprint(CPU)\n"
        "heavy = {'torch', 'timm', 'numpy', 'torchvision'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_check_names_every_problem_with_its_place(tmp_path):
    config = TrainConfig.model_validate(
        {
            "model": "resnet81",
            "pretrained": str(tmp_path / "no.safetensors"),
            "optimizer": {"name": "adamv"},
        }
    )
    problems = {problem.path: problem.message for problem in Train(config).check(CPU)}
    assert "Did you mean 'resnet" in problems["model"]
    assert "Did you mean 'adam" in problems["optimizer.name"]
    assert "is no file" in problems["pretrained"]


def test_the_fingerprint_follows_the_pretrained_file(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"one")
    stage = Train(TrainConfig(pretrained=str(path)))
    first = stage.fingerprint(CPU)
    path.write_bytes(b"two")
    assert {k for k, v in stage.fingerprint(CPU).items() if first[k] != v} == {"pretrained"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": "3"}, "valid integer"),
        ({"epoch": 3}, "Extra inputs are not permitted"),
        ({"precision": "int8"}, "'fp32', 'bf16', 'fp16' or 'fp16_emulated'"),
        ({"target": {"top1": 97}}, "less than or equal to 1"),
        ({"optimizer": {"lr": 0}}, "greater than 0"),
        ({"weights": "ema", "ema": False}, "weights: 'ema' needs the moving average"),
        ({"epochs": 2, "schedule": {"warmup_epochs": 3}}, "longer than the run"),
        ({"threads": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_an_error(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(settings)


def test_without_data_it_says_what_is_missing(tmp_path):
    with pytest.raises(MissingArtifact, match="DataSpec is not there"):
        Train(TrainConfig()).run(Context(dir=tmp_path))
