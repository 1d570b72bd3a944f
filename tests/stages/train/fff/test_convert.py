"""Converting: fast layers that do what a trained network's dense layers do."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.errors import ConfigError
from pipeline.report.blocks import Table, load_section
from stages.train.config import TrainConfig
from stages.train.fff.config import ConvertConfig, FffConfig
from stages.train.fff.conversion import load_conversion
from stages.train.fff.convert import convert
from stages.train.fff.layer import fast_layers
from stages.train.models.factory import build_model

OPTIONS = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
VIT = {"model": "vit_tiny_patch16_224", "model_options": OPTIONS}
FFF = {"depth": 2, "trees": 8, "dense_width": 8}


def networks(fff):
    torch.manual_seed(0)
    sizes = {"classes": 3, "height": 8, "width": 8, "channels": 1, "mean": [0.5], "std": [0.5]}
    dense = build_model("vit_tiny_patch16_224", **sizes, **OPTIONS)
    return dense, build_model("vit_tiny_patch16_224", **sizes, fff=fff.model_dump(), **OPTIONS)


def batches():
    for _ in range(4):
        yield torch.randint(0, 256, (32, 8, 8, 1), dtype=torch.uint8)


def test_every_layer_explains_most_of_its_dense_one_and_all_else_is_the_same():
    settings = FffConfig.model_validate(FFF)
    dense, network = networks(settings)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    found = convert(dense, network, settings, ConvertConfig(steps=60, lr=5e-3), batches)
    assert list(found.r2) == ["blocks.0.mlp.0", "blocks.1.mlp.0"]
    assert all(0.5 < r2 <= 1 for r2 in found.r2.values())
    after = network.state_dict()
    assert all(torch.equal(dense.state_dict()[name], tensor) for name, tensor in before.items())
    others = [name for name in before if ".mlp." not in name]
    assert all(torch.equal(after[name], before[name]) for name in others)


def test_more_steps_explain_more():
    settings = FffConfig.model_validate(FFF)
    explained = []
    for steps in (1, 30):
        torch.manual_seed(1)
        dense, network = networks(settings)
        found = convert(dense, network, settings, ConvertConfig(steps=steps), batches)
        explained.append(found.r2.values())
    assert all(more > less for less, more in zip(*explained, strict=True))


def test_only_the_layers_that_are_named_become_fast():
    settings = FffConfig.model_validate({**FFF, "layers": ["blocks.1.mlp"]})
    dense, network = networks(settings)
    found = convert(dense, network, settings, ConvertConfig(steps=2), batches)
    assert list(found.r2) == ["blocks.1.mlp.0"]
    own = network.state_dict()["body.blocks.0.mlp.fc1.weight"]
    assert torch.equal(own, dense.state_dict()["body.blocks.0.mlp.fc1.weight"])


def test_a_trained_network_is_converted_and_trained_on(train_once, recorder):
    dense = train_once("dense", **VIT, epochs=30)
    assert dense.metrics["top1"] > 0.9
    fff = {"depth": 2, "trees": 8, "dense_width": 8, "convert": {"steps": 60}}
    trained = train_once("fast", **VIT, epochs=1, fff=fff, pretrained=str(dense.weights))
    said = [message for message in recorder.messages("info") if "fff.convert" in message]
    assert len(said) == 2
    assert "blocks.0.mlp.0 explains" in said[0]
    assert trained.metrics["top1"] > 0.8
    blocks = load_section(trained.weights.parent).blocks
    [table] = [b for b in blocks if isinstance(b, Table) and "Conversion" in b.title]
    found = load_conversion(trained.weights.parent)
    assert table.rows == tuple((name, f"{r2:.1%}") for name, r2 in found.r2.items())
    assert any("w_in" in name for name in load_file(trained.weights))
    assert len(fast_layers(build_model(**trained.module.arguments))) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fff": {"convert": {}}}, "teaches fast layers what trained ones do, and pretrained is"),
        ({"fff": {}, "pretrained": "auto"}, "Add fff.convert: {}, which teaches"),
        ({"fff": {"convert": {"steps": 0}}, "pretrained": "auto"}, "steps"),
    ],
)
def test_what_cannot_be_converted_is_explained(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({**VIT, **changes})


def test_weights_that_are_not_there_cannot_be_converted(train_once):
    with pytest.raises(ConfigError, match="no weights to convert from. Set pretrained"):
        train_once(**VIT, fff={"convert": {}}, pretrained="auto", epochs=1)
