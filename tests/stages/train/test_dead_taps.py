from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.device import CPU, Device
from stages.train.dead_taps import find_dead_taps, has_dead_tap, keep_dead_taps_in_fp32
from stages.train.models.factory import build_model
from stages.train.precision import Precision

BF16 = Precision(name="bf16", reason="asked for")


@given(
    size=st.integers(1, 6),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
)
def test_a_tap_is_dead_exactly_when_its_gradient_is_zero_for_any_input(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    if size + 2 * padding < dilation * (kernel - 1) + 1:
        return
    layer = nn.Conv1d(1, 1, kernel, stride, padding, dilation, bias=False)
    layer(torch.ones(1, 1, size)).sum().backward()
    assert layer.weight.grad is not None
    zero = bool((layer.weight.grad == 0).any())
    assert has_dead_tap(size, kernel, stride, padding, dilation) == zero


def network(size: int) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module = build_model(
        name="resnet10t", classes=3, height=size, width=size, channels=1, mean=(0.5,), std=(0.25,)
    )
    return module, torch.randint(0, 256, (8, size, size, 1), dtype=torch.uint8)


def test_they_are_found_by_name_where_images_have_become_too_small() -> None:
    module, images = network(16)
    assert "body.layer4.0.conv1" in find_dead_taps(module, images)
    assert module.training
    module, images = network(64)
    assert find_dead_taps(module, images) == []


def test_their_gradients_are_the_same_each_time_and_finite_in_bf16() -> None:
    module, images = network(16)
    keys = list(module.state_dict())
    names = keep_dead_taps_in_fp32(module, images, BF16, CPU)
    assert names
    assert list(module.state_dict()) == keys
    layer = module.get_submodule("body.layer4.0.conv1")
    assert isinstance(layer, nn.Conv2d)
    seen = set()
    for _ in range(4):
        junk = [torch.full((n,), float("nan")) for n in (1_000, 100_000, 2_400_000)]
        del junk  # memory that the next allocation may get as it is
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            module(images).float().square().sum().backward()
        assert layer.weight.grad is not None
        assert torch.isfinite(layer.weight.grad).all()
        seen.add(layer.weight.grad.numpy().tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("precision", "device"),
    [(Precision(name="fp32", reason=""), CPU), (BF16, Device("cuda"))],
)
def test_nothing_is_changed_where_the_kernel_is_right(precision: Precision, device: Device) -> None:
    module, images = network(16)
    assert keep_dead_taps_in_fp32(module, images, precision, device) == []


def test_such_layers_can_be_copied_and_sent_to_another_process() -> None:
    module, images = network(16)
    names = keep_dead_taps_in_fp32(module, images, BF16, CPU)
    module.eval()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert list(other.state_dict()) == list(module.state_dict())
        for name in names:
            assert type(other.get_submodule(name)) is type(module.get_submodule(name))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(other(images), module(images))
