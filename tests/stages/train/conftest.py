"""Three kinds of 8x8 pictures that a tiny network tells apart, and a stage to train it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts import DataSpec, Split, TrainedModel
from pipeline.context import Context, no_rehearsal
from pipeline.events import Event, EventLog
from pipeline.interrupt import StopFlag
from stages.augment.batch import Batch
from stages.train.config import TrainConfig
from stages.train.stage import Train

HERE = Path(__file__).parent
CLASSES = ("left", "right", "bottom")
BATCH, TRAIN, EVAL = 16, 96, 48
STEPS_PER_EPOCH = TRAIN // BATCH

RECIPE = {
    "model": "tiny_net:tiny_net",
    "epochs": 3,
    "precision": "fp32",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "onecycle", "warmup_epochs": 1},
    "threads": 1,
    "tensorboard": False,
}


@dataclass
class Recorder:
    """Keeps every event, and lets a test act on one."""

    events: list[Event] = field(default_factory=list)
    on_event: Callable[[Event], None] = lambda event: None

    def receive(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)

    def messages(self, kind: str) -> list[str]:
        return [str(e.fields.get("message")) for e in self.events if e.kind == kind]

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 120, (count, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(count) % len(CLASSES)
    images[labels == 0, :, :4] += 100
    images[labels == 1, :, 4:] += 100
    images[labels == 2, 4:, :] += 100
    return images, labels.astype(np.int64)


def write_spec(folder: Path) -> DataSpec:
    splits = {}
    for number, (name, count) in enumerate([("train", TRAIN), ("eval", EVAL)]):
        images, labels = pictures(count, seed=number)
        np.save(folder / f"{name}_images.npy", images)
        np.save(folder / f"{name}_labels.npy", labels)
        manifest = folder / f"{name}.json"
        manifest.write_text(
            json.dumps({"images": f"{name}_images.npy", "labels": f"{name}_labels.npy"})
        )
        splits[name] = Split(manifest=manifest, samples=count)
    transforms = folder / "transforms.json"
    transforms.write_text(
        json.dumps({"train": [{"affine": {"degrees": 5.0}}, "mixup"], "eval": []})
    )
    return DataSpec(
        kind="image", name="sides", backend="array", reader="array", transforms=transforms,
        splits=splits, classes=CLASSES, height=8, width=8, channels=1, mean=(0.4,), std=(0.2,),
        batch_size=BATCH, digest="d" * 64,
    )  # fmt: skip


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    return write_spec(tmp_path_factory.mktemp("sides"))


@pytest.fixture(scope="session", autouse=True)
def _own_models() -> Iterator[None]:
    """A user's module is found because the command runs in its folder; here, by the path."""
    sys.path.insert(0, str(HERE))
    importlib.invalidate_caches()
    yield
    sys.path.remove(str(HERE))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose by a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _fresh_count() -> None:
    import tiny_net

    tiny_net.steps_seen = 0


TrainOnce = Callable[..., TrainedModel]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def stop() -> StopFlag:
    return StopFlag()


@pytest.fixture
def train_once(spec: DataSpec, tmp_path: Path, recorder: Recorder, stop: StopFlag) -> TrainOnce:
    """Run the stage in `tmp_path / name` with the recipe and what the test changes in it."""

    def run(
        name: str = "run",
        rehearse: Callable[[TrainedModel], None] = no_rehearsal,
        **changes: object,
    ) -> TrainedModel:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = TrainConfig.model_validate({**RECIPE, **changes})
        context = Context(
            dir=folder, artifacts={type(spec): spec}, events=EventLog((recorder,)), stop=stop,
            rehearse=rehearse,
        )  # fmt: skip
        return Train(config).run(context)

    return run


@pytest.fixture
def batch() -> Batch:
    images, labels = pictures(BATCH, seed=0)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.arange(BATCH))
