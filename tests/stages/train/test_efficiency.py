"""Operations that training needs, and those that the device can do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.device import CPU
from stages.train.efficiency import Efficiency, flops_per_image, measured_peak
from stages.train.models.classifier import ImageClassifier
from stages.train.precision import FP32


def test_a_linear_layer_needs_three_products():
    body = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Linear(5, 7))
    module = ImageClassifier(body, (0.5,) * 3, (0.5,) * 3)
    # The first layer's input needs no gradient, which leaves two.
    assert flops_per_image(module, (4, 4, 3)) == 2 * (2 * 48 * 5 + 3 * 5 * 7)


def test_a_convolution_counts_for_every_pixel():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 2))
    module = ImageClassifier(body, (0.5,) * 3, (0.5,) * 3)
    assert flops_per_image(module, (4, 4, 3)) == 2 * (2 * 16 * 27 * 8 + 3 * 128 * 2)


def test_the_network_is_left_as_it_is():
    module = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), (0.5,), (0.5,)).eval()
    flops_per_image(module, (4, 4, 1))
    assert not module.training
    assert all(p.grad is None and p.device.type == "cpu" for p in module.parameters())


def test_a_network_that_looks_at_its_numbers_is_not_counted():
    class Looks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum().item() > 0 else -x.flatten(1)

    assert flops_per_image(ImageClassifier(Looks(), (0.5,), (0.5,)), (2, 2, 1)) is None


def test_utilization_is_needed_over_possible():
    used = Efficiency(flops_per_image=2e9, peak_flops=1e11, images_per_s=20)
    assert used.mfu == pytest.approx(0.4)
    assert str(used) == "40.0% of 100 GFLOP/s (a matrix product here); 2 GFLOP an image"


def test_a_core_does_more_than_a_billion_operations_a_second():
    assert 1e9 < measured_peak(FP32, CPU) < 1e15
