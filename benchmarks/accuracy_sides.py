"""Accuracy sides: one run of training on idx files by ours, a first script, and Lightning.

Each returns a `Curve`. What counts is the time from the first batch to the last: opening the data,
evaluation and writing files do not, for any side. Evaluation is in fp32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.accuracy import Curve, Images, Point, read_pair
from pipeline.artifacts import DataSpec
from pipeline.config import ChainConfig, StageEntry
from pipeline.context import Context
from pipeline.events import Event, EventLog
from stages.train.config import TrainConfig
from stages.train.models.factory import build_model
from stages.train.models.whitening import fit_to_images
from stages.train.stage import Train

NAIVE_BATCH, NAIVE_RATE = 64, 1e-3
_EVAL_BATCH = 500


@dataclass(frozen=True, slots=True)
class Task:
    """A configuration, the prepared data, and the same data as arrays."""

    entries: Mapping[str, StageEntry]
    spec: DataSpec
    train: tuple[torch.Tensor, torch.Tensor]
    """uint8 (N, H, W, 1) and int64 (N,)."""
    test: tuple[torch.Tensor, torch.Tensor]

    @property
    def config(self) -> TrainConfig:
        """The settings of training."""
        config = self.entries["train"].config
        assert isinstance(config, TrainConfig)
        return config

    def network(self, seed: int) -> nn.Module:
        """Return the network of the configuration as ours starts with it, for uint8 images."""
        torch.manual_seed(seed)
        spec = self.spec
        options: dict[str, Any] = dict(self.config.model_options)
        network = build_model(
            self.config.model, classes=len(spec.classes), height=spec.height, width=spec.width,
            channels=spec.channels, mean=spec.mean, std=spec.std, **options,
        )  # fmt: skip
        fit_to_images(network, self.train[0][: spec.batch_size])
        return network


def open_task(chain: ChainConfig, idx: Path, scratch: Path) -> Task:
    """Run the augment stage on the files in `idx`, which the configuration has to name."""
    entries = {entry.name: entry for entry in chain.stages}
    spec = entries["augment"].build().run(Context(dir=scratch))
    assert isinstance(spec, DataSpec)
    train, test = (_tensors(*read_pair(idx, name)) for name in ("train", "t10k"))
    return Task(entries=entries, spec=spec, train=train, test=test)


@dataclass
class _Epochs:
    """Listens for what the train stage says at the end of each epoch."""

    which: str
    batch_size: int
    points: list[Point] = field(default_factory=list)

    def receive(self, event: Event) -> None:
        """Take one event."""
        if event.kind != "epoch":
            return
        step, speed = event.fields["step"], event.fields["images_per_s"]
        top1 = event.fields[self.which]
        assert isinstance(step, int)
        assert isinstance(speed, float)
        assert isinstance(top1, float)
        # The speed is that of all steps so far.
        self.points.append(Point(seconds=step * self.batch_size / speed, top1=top1))


def ours(task: Task, seed: int) -> Curve:
    """Run the train stage as the configuration says; the curve is of the weights it exports.

    Args:
        task: the configuration and its data.
        seed: of weights and order.
    """
    config = task.config
    which = "ema_top1" if config.weights == "ema" else "top1"
    epochs = _Epochs(which, task.spec.batch_size)
    with TemporaryDirectory(prefix="dlpipe-accuracy-") as folder:
        context = Context(
            dir=Path(folder), seed=seed, artifacts={DataSpec: task.spec}, events=EventLog((epochs,))
        )
        Train(config).run(context)
    return Curve(epochs.points)


@dataclass
class Clock:
    """Adds up the time spent in training; evaluation stands outside of it."""

    seconds: float = 0.0
    points: list[Point] = field(default_factory=list)
    _started: float = 0.0

    def start(self) -> None:
        """Go on."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Pause."""
        self.seconds += time.perf_counter() - self._started

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run for as long as the block."""
        self.start()
        yield
        self.stop()

    def note(self, network: nn.Module, test: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Evaluate at this moment."""
        self.points.append(Point(seconds=self.seconds, top1=accuracy(network, test)))


@torch.no_grad()
def accuracy(network: nn.Module, test: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Return the share of test images that a network answers correctly; it goes on in training."""
    network.eval()
    pieces = zip(*(torch.split(part, _EVAL_BATCH) for part in test), strict=True)
    right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in pieces)
    network.train()
    return right / len(test[1])


class _Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Images that are transformed one at a time, as torchvision's data sets do it."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images.permute(0, 3, 1, 2), labels.tolist()
        self.transform = v2.Compose([
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5,), (0.5,)),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


class _Plain(nn.Module):
    """The two-convolution network of many first tutorials, 422,000 weights; takes uint8 in eval."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, classes),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float (N, 1, 28, 28), or uint8 (N, 28, 28, 1), to logits."""
        if images.dtype == torch.uint8:
            images = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        logits: torch.Tensor = self.layers(images)
        return logits


def naive(task: Task, seed: int, limit_s: float) -> Curve:
    """Train by a first script's recipe: fp32, Adam, batches of 64, one image at a time.

    Args:
        task: what to learn.
        seed: of weights and order.
        limit_s: training ends with the epoch in which this is reached.
    """
    torch.manual_seed(seed)
    network = _Plain(len(task.spec.classes))
    optimizer = torch.optim.Adam(network.parameters(), NAIVE_RATE)
    loader = DataLoader(_Pictures(*task.train), batch_size=NAIVE_BATCH, shuffle=True)
    clock = Clock()
    while clock.seconds < limit_s:
        with clock.running():
            for images, labels in loader:
                loss = cross_entropy(network(images), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        clock.note(network, task.test)
    return Curve(clock.points)


def lightning_side() -> Callable[[Task, int, float], Curve] | None:
    """Return the side of Lightning, or None where it is not installed."""
    from pipeline.backend import is_installed

    if not is_installed("lightning"):
        return None
    from benchmarks.accuracy_lightning import with_lightning

    return with_lightning


def _tensors(images: Images, labels: Images) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(images.copy()).unsqueeze(-1), torch.from_numpy(labels.copy()).long()
