"""Fast feedforward layers through the train stage and into a graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.context import Context
from stages.export.config import ExportConfig
from stages.export.forms import choose_forms
from stages.export.restore import restore
from stages.export.to_onnx import to_onnx
from stages.train.config import TrainConfig
from stages.train.fff.layer import fast_layers

VIT = {
    "model": "vit_tiny_patch16_224",
    "model_options": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "fff": {"depth": 3, "trees": 2, "balance": 0.01},
    "epochs": 40,
}


@pytest.fixture(scope="module")
def settings():
    return dict(VIT)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_transformer_learns_with_fast_layers(train_once, settings, recorder, micro_batches):
    trained = train_once(**settings, parallel={"micro_batches": micro_batches})
    assert trained.metrics["top1"] > 0.8
    assert trained.module.arguments["fff"]["depth"] == 3
    assert any(
        "blocks.0.mlp.0: 8 of 30 neurons for a token" in m for m in recorder.messages("info")
    )
    section = (trained.weights.parent / "section.json").read_text()
    assert "Fast feedforward layers" in section
    assert "busiest first" in section


def test_its_graph_has_plain_operators_and_answers_as_the_network_does(
    train_once, settings, tmp_path
):
    trained = train_once(**{**settings, "epochs": 1})
    module = restore(trained).eval()
    assert len(fast_layers(module)) == 2
    path = tmp_path / "model.onnx"
    to_onnx(module, trained.input, trained.output, path, opset=18)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        images = np.random.default_rng(batch).integers(0, 256, (batch, 8, 8, 1), dtype=np.uint8)
        (logits,) = session.run(None, {trained.input.name: images})
        with torch.no_grad():
            expected = module(torch.from_numpy(images))
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_export_keeps_the_form_that_is_faster_and_says_why(train_once, settings, tmp_path):
    trained = train_once(**{**settings, "epochs": 1})
    module = restore(trained).eval()
    config = ExportConfig.model_validate({"opset": 18, "batch": {"min": 1, "opt": 4}})
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    [choice] = choose_forms(module, images, config, Context(dir=tmp_path))
    assert choice.layers == ("body.blocks.0.mlp.0", "body.blocks.1.mlp.0")
    assert choice.times_ms.keys() == {"gathered", "masked"}
    assert {layer.graph_form for layer in fast_layers(module).values()} == {choice.form}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained": "auto"}, "pretrained weights are of the old ones"),
        ({"parallel": {"pipeline": 2}}, "which a pipeline has in no one place"),
        ({"fff": {"dept": 3}}, "dept"),
    ],
)
def test_what_does_not_go_with_fast_layers_is_explained(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({**VIT, **changes})


def test_a_pipeline_trains_fast_layers_as_one_device_does(train_once, settings):
    short = {**settings, "fff": {"depth": 3, "trees": 2}, "epochs": 2, "ema": False}
    alone = train_once("alone", **short, parallel={"micro_batches": 2})
    cut = {"pipeline": 2, "micro_batches": 2, "engine": "devices"}
    stages = train_once("stages", **short, parallel=cut)
    one, other = load_file(alone.weights), load_file(stages.weights)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)
