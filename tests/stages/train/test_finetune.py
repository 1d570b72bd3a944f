"""Fine-tuning end to end: five digits help with the other five, and what a run says about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from pipeline.artifacts import DataSpec, Split, TrainedModel
from pipeline.context import Context
from pipeline.errors import Interrupted
from pipeline.events import EventLog
from pipeline.interrupt import StopFlag
from stages.train.config import TrainConfig
from stages.train.models.weights_file import read_weights
from stages.train.stage import Train

RECIPE = {
    "model": "test_resnet", "precision": "fp32", "threads": 1, "tensorboard": False, "ema": False,
    "optimizer": {"lr": 3e-3}, "schedule": {"name": "onecycle", "warmup_epochs": 0.25},
}  # fmt: skip
FEW = 10
"""Images a class that the new task has."""


def digits_spec(folder: Path, wanted: range, train: int) -> DataSpec:
    """Some of scikit-learn's digits at 16x16; `train` images a class, and 60 to evaluate on."""
    folder.mkdir()
    data = load_digits()
    images = (data.images * 15.9375).astype(np.uint8).repeat(2, 1).repeat(2, 2)[..., None]
    splits = {}
    for name, part in (("train", slice(0, train)), ("eval", slice(-60, None))):
        rows = np.concatenate([np.flatnonzero(data.target == digit)[part] for digit in wanted])
        np.save(folder / f"{name}_images.npy", images[rows])
        np.save(folder / f"{name}_labels.npy", data.target[rows].astype(np.int64) - wanted.start)
        files = {"images": f"{name}_images.npy", "labels": f"{name}_labels.npy"}
        (folder / f"{name}.json").write_text(json.dumps(files))
        splits[name] = Split(manifest=folder / f"{name}.json", samples=len(rows))
    (folder / "transforms.json").write_text(json.dumps({"train": [], "eval": []}))
    return DataSpec(
        kind="image", name="digits", backend="array", reader="array",
        transforms=folder / "transforms.json", splits=splits, classes=tuple(map(str, wanted)),
        height=16, width=16, channels=1, mean=(0.3,), std=(0.37,), batch_size=25, digest="d" * 64,
    )  # fmt: skip


def train(spec: DataSpec, folder: Path, listeners: tuple[object, ...] = (), **changes: object):
    folder.mkdir()
    config = TrainConfig.model_validate(RECIPE | changes)
    context = Context(dir=folder, artifacts={DataSpec: spec}, events=EventLog(listeners))
    return Train(config).run(context)


@pytest.fixture(scope="module")
def first_five(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("pretrain")
    spec = digits_spec(folder / "data", range(5), train=110)
    return train(spec, folder / "run", epochs=5)


@pytest.fixture(scope="module")
def other_five(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    return digits_spec(tmp_path_factory.mktemp("new") / "data", range(5, 10), train=FEW)


def test_at_equal_few_steps_it_beats_a_start_from_scratch(first_five, other_five, tmp_path):
    scratch = train(other_five, tmp_path / "scratch", epochs=6)
    weights = str(first_five.weights)
    tuned = train(other_five, tmp_path / "tuned", epochs=6, pretrained=weights)
    assert first_five.metrics["top1"] > 0.9
    assert tuned.metrics["steps"] == scratch.metrics["steps"]
    assert tuned.metrics["top1"] > scratch.metrics["top1"] + 0.05


def test_the_head_is_new_for_new_classes_and_the_rest_is_told(
    first_five, other_five, tmp_path, recorder
):
    train(other_five, tmp_path / "run", (recorder,), epochs=1, pretrained=str(first_five.weights))
    [event] = recorder.of("pretrained")
    assert event.fields["new_head"] == ["fc.bias", "fc.weight"]
    assert "the head is new: fc.bias, fc.weight" in " ".join(recorder.messages("info"))


def test_what_is_frozen_is_exported_as_it_was_loaded(first_five, other_five, tmp_path):
    weights = str(first_five.weights)
    tuned = train(
        other_five, tmp_path / "run", epochs=2, pretrained=weights, freeze={"until": "layer3"}
    )
    before, after = load_file(weights), load_file(tuned.weights)
    same = {name for name in before if np.array_equal(before[name], after[name])}
    fronts = ("body.conv1", "body.bn1", "body.layer1", "body.layer2")
    assert {name for name in before if name.startswith(fronts)} <= same
    assert not any(name.startswith("body.layer4") for name in same if "num_batches" not in name)


def test_the_weights_bring_their_own_normalization(first_five, other_five, tmp_path, recorder):
    brighter = replace(other_five, mean=(0.5,), std=(0.2,))
    options = {"epochs": 1, "pretrained": str(first_five.weights)}
    tuned = train(brighter, tmp_path / "auto", (recorder,), **options)
    assert tuned.module.arguments["mean"] == (0.3,)
    assert "with which the weights were trained" in " ".join(recorder.messages("info"))
    own = train(brighter, tmp_path / "data", **options, normalization="data")
    assert own.module.arguments["mean"] == (0.5,)


def test_a_run_leaves_weights_that_say_what_they_are(first_five):
    note = read_weights(first_five.weights).note
    assert note is not None
    assert (note.model, note.mean, note.classes) == ("test_resnet", (0.3,), tuple("01234"))


def test_frozen_layers_learn_after_a_resume_as_they_would_have(
    first_five, other_five, tmp_path, recorder
):
    options = {
        "epochs": 2, "pretrained": str(first_five.weights), "freeze": "all_but_head",
        "unfreeze_after": 1,
    }  # fmt: skip
    straight = train(other_five, tmp_path / "straight", **options)

    stop, folder = StopFlag(), tmp_path / "stopped"
    recorder.on_event = lambda event: stop.request("a test") if event.kind == "epoch" else None
    folder.mkdir()
    config = TrainConfig.model_validate(RECIPE | options)
    artifacts = {DataSpec: other_five}
    with pytest.raises(Interrupted):
        Train(config).run(
            Context(dir=folder, artifacts=artifacts, events=EventLog((recorder,)), stop=stop)
        )
    resumed = Train(config).run(Context(dir=folder, artifacts=artifacts))
    a, b = load_file(straight.weights), load_file(resumed.weights)
    assert all(np.array_equal(a[name], b[name]) for name in a)
