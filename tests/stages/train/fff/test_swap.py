"""Swapping: which layers of which networks become fast ones."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.errors import ConfigError
from stages.train.fff.layer import FFF
from stages.train.fff.swap import find_feedforward, swap_feedforward
from stages.train.models.factory import build_model

SMALL = {"depth": 2, "trees": 2}


class Intermediate(nn.Module):
    """As transformers has it in BERT."""

    def __init__(self):
        super().__init__()
        self.dense, self.intermediate_act_fn = nn.Linear(8, 32), nn.ReLU()

    def forward(self, x):
        return self.intermediate_act_fn(self.dense(x))


class Output(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(32, 8), nn.LayerNorm(8)

    def forward(self, x, residual):
        return self.LayerNorm(self.dense(x) + residual)


class BertLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.intermediate, self.output = Intermediate(), Output()

    def forward(self, x):
        return self.output(self.intermediate(x), x)


def torch_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 32, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


NETWORKS = {
    "timm": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3),
        torch.zeros(2, 3, 32, 32),
        ["blocks.0.mlp", "blocks.1.mlp"],
    ),
    "bert": (
        lambda: nn.Sequential(BertLayer(), BertLayer()),
        torch.zeros(2, 5, 8),
        ["0.intermediate", "1.intermediate"],
    ),
    "torch": (
        torch_encoder,
        torch.zeros(2, 5, 8),
        ["layers.0.linear1", "layers.1.linear1"],
    ),
}


@pytest.mark.parametrize(("make", "given", "names"), NETWORKS.values(), ids=NETWORKS.keys())
def test_all_feedforward_layers_are_found_and_replaced(make, given, names):
    network = make()
    assert [layer.name for layer in find_feedforward(network)] == names
    before = network.eval()(given).shape
    swapped = swap_feedforward(network, SMALL)
    assert len(swapped) == len(names)
    assert find_feedforward(network) == []
    for mode in (True, False):
        assert network.train(mode)(given).shape == before
    with torch.no_grad():
        assert network.eval()(given).isfinite().all()
    fast = [layer for layer in network.modules() if isinstance(layer, FFF)]
    assert all((layer.depth, layer.trees) == (2, 2) for layer in fast)


def test_the_activation_and_the_widths_are_those_of_the_layer():
    network = nn.Sequential(BertLayer())
    swap_feedforward(network, SMALL)
    fast = network[0].intermediate
    assert isinstance(fast.activation, nn.ReLU)
    assert (fast.in_features, fast.out_features) == (8, 8)


def test_patterns_choose_layers():
    network = NETWORKS["timm"][0]()
    assert swap_feedforward(network, {**SMALL, "layers": ["*.1.mlp"]}) == ["blocks.1.mlp.0"]


def test_a_name_that_is_no_layer_is_explained():
    network = NETWORKS["timm"][0]()
    with pytest.raises(ConfigError, match=r"'blocks.0.mpl' is no .*Did you mean 'blocks.0.mlp'"):
        swap_feedforward(network, {**SMALL, "layers": ["blocks.0.mpl"]})


def test_a_network_without_feedforward_layers_is_refused():
    with pytest.raises(ConfigError, match="ResNet has no feedforward layer that dlpipe knows"):
        swap_feedforward(timm.create_model("resnet18"), SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 16, "trees": 32}, "make 4,194,272 neurons a layer"),
        ({"hardening": 1.0, "balance": 1.0}, "goes with hard paths"),
        ({"hardening": 1.0, "form": "gathered"}, "'gathered' visits one path"),
    ],
)
def test_settings_that_make_no_sense_are_explained(settings, message):
    with pytest.raises(ValidationError, match=message):
        swap_feedforward(nn.Sequential(), settings)


def test_a_network_is_built_again_with_its_fast_layers():
    arguments = {
        "classes": 3, "height": 32, "width": 32, "channels": 3, "mean": (0.5,) * 3,
        "std": (0.5,) * 3, "fff": SMALL,
    }  # fmt: skip
    first = build_model("vit_tiny_patch16_224", **arguments)
    second = build_model("vit_tiny_patch16_224", **copy.deepcopy(arguments))
    second.load_state_dict(first.state_dict())
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(first.eval()(images), second.eval()(images))
