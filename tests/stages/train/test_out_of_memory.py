"""Running out of memory: real limits on a real run, and what the retried step leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.device import CPU
from pipeline.errors import StageFailed
from pipeline.events import EventLog
from stages.augment.batch import Batch, Mix
from stages.train.config import TrainConfig
from stages.train.learner import Learner, build_learner
from stages.train.models.classifier import ImageClassifier
from stages.train.out_of_memory import is_out_of_memory
from stages.train.precision import FP32

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent


class Hungry(nn.Module):
    """Refuses more than so many images, late in the forward pass, as an allocator would."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.front = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.back = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 36, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.front(x)
        if len(x) > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        logits: torch.Tensor = self.back(x)
        return logits


@pytest.fixture
def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (12, 8, 8, 1), dtype=torch.uint8, generator=draw)
    mix = Mix(torch.randperm(12, generator=draw), torch.rand(12, generator=draw))
    return Batch(images, torch.arange(12) % 3, torch.arange(12), mix)


def learner_of(most: int, events: EventLog | None = None, **settings: object) -> Learner:
    torch.manual_seed(0)
    config = TrainConfig.model_validate({"schedule": {"warmup_epochs": 0}} | settings)
    module = ImageClassifier(Hungry(most), (0.5,), (0.25,))
    return build_learner(module, config, FP32, CPU, steps_per_epoch=8, events=events)


def learn(learner: Learner, batch: Batch, steps: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(7)
    for _ in range(steps):
        learner.step(batch)
    drawn = torch.rand(1)  # where the random stream stands
    return [*learner.module.state_dict().values(), learner.loss_sum, drawn]


@pytest.mark.parametrize(("most", "pieces"), [(12, 1), (6, 2), (3, 4), (2, 8), (1, 12)])
def test_a_run_that_had_to_halve_ends_as_one_that_began_so(most, pieces, batch, recorder):
    learner = learner_of(most, EventLog((recorder,)))
    halved = learn(learner, batch)
    planned = learn(learner_of(12, parallel={"micro_batches": pieces}), batch)
    assert learner.halving.micro_batches == pieces
    assert all(torch.equal(a, b) for a, b in zip(halved, planned, strict=True))
    assert len(recorder.messages("warning")) == (most < 12)


def test_the_warning_says_the_numbers_and_the_setting(batch, recorder):
    learn(learner_of(3, EventLog((recorder,))), batch)
    [said] = recorder.messages("warning")
    assert "at step 1 with 12 images at once; the batch of 12 is computed in 4" in said
    assert "parallel: {micro_batches: 4}" in said
    [event] = recorder.of("out of memory")
    assert event.fields["micro_batches"] == 4


def test_a_single_image_that_does_not_fit_ends_the_run_clearly(batch):
    with pytest.raises(StageFailed, match=r"step 1 with a single image .*Use a smaller model"):
        learner_of(0).step(batch)


def test_halving_can_be_forbidden(batch):
    with pytest.raises(StageFailed, match=r"with 12 images at a time .* \{micro_batches: 2\}"):
        learner_of(6, on_oom="fail").step(batch)


def test_any_other_error_goes_through(batch):
    learner = learner_of(12)
    learner.module.register_forward_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        learner.step(batch)
    assert learner.halving.micro_batches == 1


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, so):
    assert is_out_of_memory(error) is so


def test_a_resumed_run_splits_as_the_interrupted_one_did(batch):
    first = learner_of(3)
    first.step(batch)
    again = learner_of(12)
    again.halving.load_state_dict(first.halving.state_dict())
    assert again.halving.micro_batches == 4


def limited_recipe() -> dict[str, object]:
    from limited_run import RECIPE

    return dict(RECIPE)


def limited_run(folder: Path, megabytes: int, on_oom: str) -> dict[str, object]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(HERE / "limited_run.py"), str(folder), str(megabytes), on_oom],
        cwd=HERE, env=os.environ | {"PYTHONPATH": f"{ROOT}:{HERE}", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's RLIMIT_DATA")
def test_a_run_in_too_little_memory_halves_and_ends_as_a_planned_one(tmp_path, train_once):
    limited = limited_run(tmp_path / "limited", megabytes=60, on_oom="halve")
    assert limited["failed"] == ""
    assert limited["metrics"]["steps"] == 6
    pieces = limited["halved to"][-1]
    assert pieces in {2, 4, 8, 16}
    assert f"micro_batches: {pieces}" in limited["warnings"][-1]
    planned = train_once(**limited_recipe(), parallel={"micro_batches": pieces})
    # Memory at other addresses makes kernels add in another order; the bits are compared above.
    assert planned.metrics["loss"] == pytest.approx(limited["metrics"]["loss"], rel=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's RLIMIT_DATA")
def test_a_run_that_may_not_halve_says_what_to_do(tmp_path):
    failed = limited_run(tmp_path / "limited", megabytes=60, on_oom="fail")["failed"]
    assert "out of memory at step 1 with 16 images at a time" in failed
    assert "can't allocate memory" in failed
    assert "parallel: {micro_batches: 2}" in failed
