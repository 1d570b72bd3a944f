"""Converting: fast layers that do what a trained network's dense layers do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_vits import FFF, VIT, networks, samples

from pipeline.context import Context
from pipeline.errors import ConfigError, Interrupted
from pipeline.files import sha256_file
from pipeline.report.blocks import Table, load_section
from stages.train.config import TrainConfig
from stages.train.fff.config import ConvertConfig
from stages.train.fff.conversion import load_conversion
from stages.train.fff.convert import convert
from stages.train.fff.converted import Converted
from stages.train.fff.layer import fast_layers
from stages.train.models.factory import build_model

LAYERS_ONLY = {"end_to_end_steps": 0}


@pytest.fixture
def ctx(tmp_path):
    return Context(dir=tmp_path)


def test_every_layer_explains_most_of_its_dense_one_and_all_else_is_the_same(ctx):
    dense, network = networks()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    settings = ConvertConfig(steps=60, lr=5e-3, **LAYERS_ONLY)
    found = convert(dense, network, FFF, settings, samples(), ctx)
    assert list(found.r2) == ["blocks.0.mlp.0", "blocks.1.mlp.0"]
    assert all(0.5 < r2 <= 1 for r2 in found.r2.values())
    after = network.state_dict()
    assert all(torch.equal(dense.state_dict()[name], tensor) for name, tensor in before.items())
    others = [name for name in before if ".mlp." not in name]
    assert all(torch.equal(after[name], before[name]) for name in others)


def test_more_steps_explain_more(ctx):
    explained = []
    for steps in (1, 30):
        torch.manual_seed(1)
        dense, network = networks()
        settings = ConvertConfig(steps=steps, **LAYERS_ONLY)
        found = convert(dense, network, FFF, settings, samples(), ctx)
        explained.append(found.r2.values())
    assert all(more > less for less, more in zip(*explained, strict=True))


def test_only_the_layers_that_are_named_become_fast(ctx):
    fff = FFF.model_copy(update={"layers": ["blocks.1.mlp"]})
    dense, network = networks(fff)
    settings = ConvertConfig(steps=2, **LAYERS_ONLY)
    found = convert(dense, network, fff, settings, samples(), ctx)
    assert list(found.r2) == ["blocks.1.mlp.0"]
    own = network.state_dict()["body.blocks.0.mlp.fc1.weight"]
    assert torch.equal(own, dense.state_dict()["body.blocks.0.mlp.fc1.weight"])


def test_a_trained_network_is_converted_and_trained_on(train_once, recorder):
    dense = train_once("dense", **VIT, epochs=30)
    assert dense.metrics["top1"] > 0.9
    fff = {"depth": 2, "trees": 8, "dense_width": 8, "convert": {"steps": 60}}
    trained = train_once("fast", **VIT, epochs=1, fff=fff, pretrained=str(dense.weights))
    said = [message for message in recorder.messages("info") if "fff.convert" in message]
    assert len(said) == 3
    assert "blocks.0.mlp.0 explains" in said[0]
    assert "of 48 samples get the trained network's first answer" in said[2]
    assert trained.metrics["top1"] > 0.8
    blocks = load_section(trained.weights.parent).blocks
    [table] = [b for b in blocks if isinstance(b, Table) and "Conversion" in b.title]
    found = load_conversion(trained.weights.parent)
    assert table == found.table()
    assert [row[1] for row in table.rows] == ["R2", "R2", "same top-1", "KL divergence"]
    assert found.end_to_end.after.kl < found.end_to_end.before.kl
    assert any("w_in" in name for name in load_file(trained.weights))
    assert len(fast_layers(build_model(**trained.module.arguments))) == 2


def test_the_dense_network_is_kept_to_be_served_instead_where_it_tells_the_same_classes(
    train_once, tmp_path
):
    dense = train_once("dense", **VIT, epochs=1)
    settings = {**VIT, "epochs": 1, "fff": {"convert": {"steps": 2, "end_to_end_steps": 0}}}
    trained = train_once("fast", **settings, pretrained=str(dense.weights))
    assert trained.dense.module == dense.module
    kept, before = load_file(trained.dense.weights), load_file(dense.weights)
    assert kept.keys() == before.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())
    assert trained.dense.weights.parent == trained.weights.parent
    with safe_open(dense.weights, framework="pt") as file:
        note = file.metadata()
    headless = {name: tensor for name, tensor in before.items() if ".head." not in name}
    save_file(headless, tmp_path / "headless.safetensors", note)
    fresh = train_once("fresh", **settings, pretrained=str(tmp_path / "headless.safetensors"))
    assert fresh.dense is None


def test_a_stopped_run_is_converted_once_and_ends_at_the_same_bits(train_once, recorder, stop):
    dense = train_once("dense", **VIT, epochs=1)
    settings = {
        **VIT, "epochs": 2, "optimizer": {"name": "adamw", "lr": "auto"},
        "fff": {"depth": 2, "convert": {"steps": 5, "end_to_end_steps": 5}},
        "pretrained": str(dense.weights),
    }  # fmt: skip
    undisturbed = train_once("undisturbed", **settings)
    recorder.events.clear()
    for sign in ("first answer", "epoch 2/2"):  # before the first checkpoint, and after some

        def on_event(event, sign=sign) -> None:
            if any(sign in str(event.fields.get(field)) for field in ("message", "note")):
                stop.request("SIGTERM")

        recorder.on_event = on_event
        with pytest.raises(Interrupted, match="SIGTERM"):
            train_once("stopped", **settings)
        stop.signal_name, recorder.on_event = "", lambda event: None
    resumed = train_once("stopped", **settings)
    assert sha256_file(resumed.weights) == sha256_file(undisturbed.weights)
    said = recorder.messages("info")
    assert sum("first answer" in message for message in said) == 1
    assert sum("fff.convert: done before" in message for message in said) == 2
    assert any("resumed at step" in message for message in said)
    assert load_conversion(resumed.weights.parent) == load_conversion(undisturbed.weights.parent)
    assert sha256_file(resumed.dense.weights) == sha256_file(undisturbed.dense.weights)
    assert not (resumed.weights.parent / "checkpoints").exists()


def test_what_is_not_of_this_run_or_damaged_is_not_taken(tmp_path):
    ours, other = networks()[1], networks()[1]
    with torch.no_grad():
        next(ours.parameters()).add_(1)
    kept = Converted(folder=tmp_path / "kept", lasting=tmp_path, key="one")
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    assert not kept.load_into(other)
    assert kept.dense() is None
    kept.save(ours)
    kept.save_dense(ours)
    assert kept.dense().parent == tmp_path
    assert not replace(kept, key="two").load_into(other)
    assert replace(kept, key="two").dense() is None
    [file] = kept.folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    assert not kept.load_into(other)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in before.items())
    file.write_bytes(whole)
    assert kept.load_into(other)
    after = ours.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in other.state_dict().items())


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
