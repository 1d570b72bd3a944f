"""Training on texts: it learns, goes on to the bit, and starts from weights of the same tokens."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.context import Context
from pipeline.errors import ConfigError, Interrupted
from pipeline.events import Event, EventLog
from pipeline.interrupt import StopFlag
from stages.augment.config import AugmentConfig
from stages.augment.stage import Augment
from stages.train.config import TrainConfig
from stages.train.models.names import ENCODER
from stages.train.models.weights_file import read_weights
from stages.train.stage import Train

RECIPE = {
    "model": ENCODER, "model_options": {"width": 16, "depth": 2, "heads": 2}, "threads": 1,
    "precision": "fp32", "tensorboard": False, "optimizer": {"lr": 1e-2}, "epochs": 8,
    "schedule": {"name": "onecycle", "warmup_epochs": 1}, "eval_every": 4,
}  # fmt: skip
WORDS = {
    "bird": ("wing", "beak", "nest"),
    "fish": ("fin", "gill", "reef"),
    "tree": ("leaf", "bark"),
}


def table(path: Path, classes: tuple[str, ...], texts: int) -> Path:
    rng = np.random.default_rng(len(classes))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(texts):
            name = classes[i % len(classes)]
            words = [*rng.choice(WORDS[name], rng.integers(1, 6)), *rng.choice(["a", "the"], 2)]
            writer.writerow([f"{i} " + " ".join(rng.permutation(words)), name])
    return path


def prepare(folder: Path, classes: tuple[str, ...], texts: int = 150, **text: object) -> DataSpec:
    folder.mkdir()
    config = AugmentConfig.model_validate(
        {
            "dataset": {"text": str(table(folder / "rows.csv", classes, texts))},
            "text": {"vocabulary": 100, "length": 16, **text}, "batch_size": 10,
        }
    )  # fmt: skip
    return Augment(config).run(Context(dir=folder))


def train(
    spec: DataSpec, folder: Path, *, listeners: tuple = (), stop: StopFlag | None = None, **changes
) -> TrainedModel:
    folder.mkdir(exist_ok=True)
    config = TrainConfig.model_validate(RECIPE | changes)
    context = Context(
        dir=folder, artifacts={DataSpec: spec}, events=EventLog(listeners), stop=stop or StopFlag()
    )
    return Train(config).run(context)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    return prepare(tmp_path_factory.mktemp("three") / "data", ("bird", "fish", "tree"))


@pytest.fixture(scope="module")
def trained(spec: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train(spec, tmp_path_factory.mktemp("three") / "run")


def test_it_learns_and_says_which_tokens_its_weights_know(trained: TrainedModel) -> None:
    assert trained.metrics["top1"] > 0.9
    assert (trained.input.name, trained.input.shape) == ("tokens", (-1, -1))
    note = read_weights(trained.weights).note
    assert note is not None
    assert len(note.tokenizer) == 64


class StopsAt:
    """Asks for a stop when training has got so far."""

    def __init__(self, stop: StopFlag, steps: int) -> None:
        self.stop, self.left = stop, steps

    def receive(self, event: Event) -> None:
        if event.kind == "progress" and event.fields.get("label") == "train":
            self.left -= 1
            if self.left <= 0:
                self.stop.request("test")


def test_an_interrupted_run_ends_with_the_same_bits(
    spec: DataSpec, trained: TrainedModel, tmp_path: Path
) -> None:
    stop = StopFlag()
    with pytest.raises(Interrupted, match="test"):
        train(spec, tmp_path / "run", listeners=(StopsAt(stop, 3),), stop=stop)
    again = train(spec, tmp_path / "run")
    mine, whole = load_file(again.weights), load_file(trained.weights)
    assert all((mine[name] == whole[name]).all() for name in whole)


def test_weights_help_with_other_classes_of_the_same_tokens(
    spec: DataSpec, trained: TrainedModel, tmp_path: Path
) -> None:
    two = prepare(
        tmp_path / "data", ("fish", "bird"), 60, tokenizer=str(spec.preprocess), length=12
    )
    tuned = train(two, tmp_path / "run", pretrained=str(trained.weights), epochs=2)
    assert tuned.metrics["top1"] > 0.9
    assert tuned.output.shape == (-1, 2)


def test_weights_that_know_other_tokens_are_refused(trained: TrainedModel, tmp_path: Path) -> None:
    other = prepare(tmp_path / "data", ("fish", "bird"), 60, vocabulary=70)
    with pytest.raises(ConfigError, match=r"tokens of another tokenizer.*set augment\.text\.token"):
        train(other, tmp_path / "run", pretrained=str(trained.weights))


def test_dense_layers_are_converted_to_fast_ones(
    spec: DataSpec, trained: TrainedModel, tmp_path: Path
) -> None:
    fff = {"depth": 2, "trees": 4, "convert": {"steps": 60, "end_to_end_steps": 20}}
    fast = train(spec, tmp_path / "run", pretrained=str(trained.weights), fff=fff, epochs=1)
    assert fast.metrics["top1"] > 0.8
    assert fast.module.arguments["fff"]
