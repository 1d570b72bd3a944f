"""Batch search: the batch size beyond which this machine gains nothing, or has no memory.

A copy of the network takes a few steps with 8, 16, 32, ... images. Taken is the smallest size that
reaches 95 % of the highest speed: a larger one would only give fewer steps an epoch. Clocks differ
from run to run, so what was found is kept, and a resumed run does not search again.
"""

from __future__ import annotations

import copy
import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import ConfigError, StageFailed
from pipeline.files import write_atomic
from pipeline.report.blocks import Table
from stages.augment.loader import Batch, open_loader
from stages.train.config import TrainConfig
from stages.train.learner import Learner, build_learner
from stages.train.models.classifier import Classifier
from stages.train.precision import Precision
from stages.train.reproducible import random_state_kept

SMALLEST, LARGEST = 8, 4096
FAST_ENOUGH = 0.95
_TIMED_STEPS = 3
_FEWEST_STEPS = 8
"""Steps that an epoch has to keep."""
_FILE = "batch_search.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSearch:
    """What was measured, and the size that was chosen."""

    chosen: int
    images_per_s: dict[int, float]
    """Of each size that was tried and fitted."""
    too_large: int | None
    """The size for which there was no memory, if it came to that."""

    def table(self) -> Table:
        """Return the measurements for the report."""
        rows = tuple((size, round(speed, 1)) for size, speed in self.images_per_s.items())
        no_memory = ((self.too_large, "out of memory"),) if self.too_large else ()
        return Table(
            title=f"Search of the batch size: {self.chosen}",
            columns=("samples a batch", "samples/s"),
            rows=(*rows, *no_memory),
        )


def batch_size_of(
    module: Classifier,
    config: TrainConfig,
    spec: DataSpec,
    precision: Precision,
    ctx: Context,
    processes: int,
) -> int:
    """Return the images of a mini-batch: the configuration's, a searched number, or the data's.

    Raises:
        ConfigError: several processes cannot search.
        StageFailed: there is no memory for the smallest size.
    """
    if config.batch_size != "auto":
        return config.batch_size or spec.batch_size
    if processes > 1:
        raise ConfigError(
            f"stages.train.batch_size: 'auto' is searched by one process, and these are "
            f"{processes}. Search it in one, then write the number that it reports."
        )
    found = load_batch_search(ctx.dir)
    if found is None:
        with random_state_kept():
            found = _search(module, config, spec, precision, ctx)
        write_atomic(ctx.dir / _FILE, json.dumps(asdict(found)))
    ctx.events.info(
        f"batch_size: auto takes {found.chosen}, {found.images_per_s[found.chosen]:,.0f} a second; "
        "optimizer.lr stays as it is written, whatever the size (lr: auto searches it)"
    )
    ctx.events.emit("batch search", batch_size=found.chosen)
    return found.chosen


def load_batch_search(folder: Path) -> BatchSearch | None:
    """Return the search that was made in a stage's folder, if one was."""
    path = folder / _FILE
    if not path.is_file():
        return None
    saved = json.loads(path.read_text())
    return BatchSearch(
        **saved | {"images_per_s": {int(k): v for k, v in saved["images_per_s"].items()}}
    )


def choose(images_per_s: dict[int, float]) -> int:
    """Return the smallest size that is nearly as fast as the fastest."""
    best = max(images_per_s.values())
    return min(size for size, speed in images_per_s.items() if speed >= FAST_ENOUGH * best)


def _search(
    module: Classifier, config: TrainConfig, spec: DataSpec, precision: Precision, ctx: Context
) -> BatchSearch:
    with closing(open_loader(spec, "eval", batch_size=32, device=ctx.device)) as loader:
        sample = next(iter(loader))
    plain = config.model_copy(update={"ema": False, "compile": False, "on_oom": "fail"})
    if plain.optimizer.lr == "auto":
        optimizer = plain.optimizer.model_copy(update={"lr": 1e-6})
        plain = plain.model_copy(update={"optimizer": optimizer})
    learner = build_learner(copy.deepcopy(module), plain, precision, ctx.device, _FEWEST_STEPS)
    speeds: dict[int, float] = {}
    size, most = SMALLEST, max(SMALLEST, spec.splits["train"].samples // _FEWEST_STEPS)
    while size <= min(most, LARGEST):
        ctx.stop.check()
        try:
            speeds[size] = _speed(learner, _of_size(sample, size), ctx.device)
        except StageFailed:
            if not speeds:
                raise
            return BatchSearch(chosen=choose(speeds), images_per_s=speeds, too_large=size)
        if choose(speeds) <= size // 4:  # two doublings brought nothing
            break
        size *= 2
    return BatchSearch(chosen=choose(speeds), images_per_s=speeds, too_large=None)


def _speed(learner: Learner, batch: Batch, device: Device) -> float:
    learner.step(batch)  # the first of a size also finds its kernels and its memory
    seconds = []
    for _ in range(_TIMED_STEPS):
        _finish(device)
        start = time.perf_counter()
        learner.step(batch)
        _finish(device)
        seconds.append(time.perf_counter() - start)
    return len(batch.targets) / sorted(seconds)[_TIMED_STEPS // 2]


def _of_size(sample: Batch, size: int) -> Batch:
    rows = torch.arange(size, device=sample.targets.device) % len(sample.targets)
    return Batch(sample.inputs[rows], sample.targets[rows], sample.index[rows])


def _finish(device: Device) -> None:
    if device.is_cuda:
        torch.cuda.synchronize(device.index)
