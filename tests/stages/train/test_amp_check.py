"""The check of the chosen precision against fp32."""

from __future__ import annotations

import pytest
import torch

from pipeline.device import CPU
from pipeline.errors import StageFailed
from stages.train.amp_check import check_amp
from stages.train.models.classifier import ImageClassifier
from stages.train.precision import Precision

BF16 = Precision(name="bf16", reason="test")
FP16 = Precision(name="fp16", reason="test")


class Scaled(torch.nn.Module):
    """A network whose inner values are as large as one likes."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 3)
        self.norm = torch.nn.BatchNorm1d(16)
        self.drop = torch.nn.Dropout(0.5)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.linear(self.drop(self.norm(x.flatten(1)))) * self.factor
        return answer


def classifier(factor: float = 1.0) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(Scaled(factor), (0.5,), (0.2,))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (32, 4, 4, 1), dtype=torch.uint8)


def test_a_healthy_network_differs_by_rounding_only(images):
    check = check_amp(classifier(), images, BF16, CPU)
    assert 0 < check.difference < 0.02
    assert not check.is_suspicious


def test_it_changes_neither_the_network_nor_the_random_state(images):
    module = classifier()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    check_amp(module, images, BF16, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_logits_that_overflow_stop_the_run_before_it_starts(images):
    with pytest.raises(StageFailed, match=r"train.precision: logits in fp16 differ from fp32 by"):
        check_amp(classifier(1e6), images, FP16, CPU)
