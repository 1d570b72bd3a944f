"""The fast network: its whitening layer, its mirror, and what the stage computes for it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.train.models.factory import build_model
from stages.train.models.fast import fast_convnet
from stages.train.models.whitening import WhiteningConv, fit_to_images, has_whitening

FAST = "stages.train.models.fast:fast_convnet"


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth images, as photos are: neighbours are alike."""
    torch.manual_seed(0)
    return nn.functional.avg_pool2d(torch.randn(64, 2, 20, 20), 5, stride=1) * 4 + 1


@pytest.mark.parametrize("stride", [1, 2])
def test_what_leaves_the_layer_is_uncorrelated_and_of_unit_variance(images, stride):
    layer = WhiteningConv(2, kernel_size=4, stride=stride, regularization=1e-9)
    layer.fit(images)
    half = layer.out_channels // 2
    inner = nn.functional.conv2d(images, layer.weight, stride=stride)
    rows = inner[:, :half].transpose(0, 1).flatten(1).double()
    moments = rows @ rows.T / rows.shape[1]
    torch.testing.assert_close(moments, torch.eye(half).double(), atol=2e-3, rtol=0)
    torch.testing.assert_close(inner[:, half:], -inner[:, :half])


def test_the_same_images_give_the_same_kernels_and_training_leaves_them_alone(images):
    one, other = (WhiteningConv(2, kernel_size=4, stride=2) for _ in range(2))
    one.fit(images)
    other.fit(images)
    assert torch.equal(one.weight, other.weight)
    assert not one.weight.requires_grad


@pytest.mark.parametrize("size", [8, 9, 28])
def test_a_patch_stands_at_every_other_pixel(size):
    assert WhiteningConv(1, kernel_size=4, stride=2)(torch.zeros(1, 1, size, size)).shape == (
        1, 32, size // 2, size // 2
    )  # fmt: skip


def test_layers_inside_a_network_see_their_own_input(images):
    network = nn.Sequential(nn.BatchNorm2d(2), WhiteningConv(2, kernel_size=2))
    alone = WhiteningConv(2, kernel_size=2)
    alone.fit(network[0].eval()(images))
    network.train()
    assert fit_to_images(network, images) == ["1"]
    assert torch.equal(network[1].weight, alone.weight)
    assert network.training
    assert not has_whitening(network[0])
    assert not network[1]._forward_pre_hooks


def test_a_mirrored_network_gives_an_image_and_its_mirror_image_one_answer(images):
    network = fast_convnet(classes=3, channels=2, base=8, mirror=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(images.flip(3)))
        network.train()
        assert not torch.allclose(network(images), network(images.flip(3)))


def test_the_stage_computes_the_whitening_from_the_data_and_the_artifact_keeps_it(
    train_once, recorder
):
    trained = train_once(model=FAST, model_options={"base": 8}, precision="bf16", epochs=8)
    assert trained.metrics["top1"] > 0.9
    assert "training images: body.0" in " ".join(recorder.messages("info"))
    kernels = load_file(trained.weights)["body.0.weight"]
    assert torch.equal(kernels[:16], -kernels[16:])
    rebuilt = build_model(**trained.module.arguments)
    rebuilt.load_state_dict(load_file(trained.weights))


def test_given_weights_are_not_computed_anew(train_once, recorder):
    first = train_once("first", model=FAST, model_options={"base": 8}, epochs=1)
    recorder.events.clear()
    train_once(
        "again", model=FAST, model_options={"base": 8}, epochs=1, pretrained=str(first.weights)
    )
    assert "computed from" not in " ".join(recorder.messages("info"))
