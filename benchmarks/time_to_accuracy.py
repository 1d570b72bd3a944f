"""Time to accuracy: seconds of training until a configuration reaches an accuracy on test images.

python -m benchmarks.time_to_accuracy [--seeds 5] [--validation]

``ours`` is the train stage as ``configs/fashion_mnist.yaml`` sets it up. The schedule is fixed, and
the weights it exports are the average at the last step, so that nothing is chosen by what is
measured here; a mark is reached at the end of the first epoch that is there. ``naive`` is a first
script, ``lightning`` a Trainer with its defaults around our network (pip install 'dlpipe[peers]');
both learn until 120 s are over. With --validation, images held out of the training split take the
place of the test images: the recipe was chosen that way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.accuracy import Curve, figures_of, hold_out, write_blobs
from benchmarks.accuracy_sides import Task, lightning_side, naive, open_task, ours
from benchmarks.clock import Stopwatch, settle
from benchmarks.command import conclude
from benchmarks.machine import Watch, num_threads
from pipeline.config import ChainConfig, load_config
from stages.augment.config import AugmentConfig
from stages.augment.datasets import IdxDataset

CONFIG = Path(__file__).parents[1] / "configs" / "fashion_mnist.yaml"
IDX = "stages.augment.dataset.idx"
MARKS = {0.92: 40.0, 0.93: 60.0, 0.935: 120.0}
"""Accuracy, and the seconds of training within which it is to be reached."""
DEFAULT_SEEDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_accuracy", description=__doc__
    )
    parser.add_argument(
        "--quick", action="store_true", help="made-up images, one seed: does it run?"
    )
    parser.add_argument("--seeds", type=int, help=f"runs of each side; {DEFAULT_SEEDS} if left out")
    parser.add_argument(
        "--threads", type=int, default=num_threads(), help="of torch, for every side; all cores"
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="of images in idx files")
    parser.add_argument("--ours-only", action="store_true", help="leave the other sides out")
    parser.add_argument(
        "--validation", action="store_true", help="measure on images held out of the training split"
    )
    options = parser.parse_args()
    watch, seeds = Watch(), options.seeds or (1 if options.quick else DEFAULT_SEEDS)
    torch.set_num_threads(options.threads)
    limit_s = 0.1 if options.quick else max(MARKS.values())
    with TemporaryDirectory(prefix="dlpipe-accuracy-") as scratch:
        task = _open(options, Path(scratch))
        sides = sides_of(task, limit_s, ours_only=options.ours_only)
        curves: dict[str, list[Curve]] = {name: [] for name in sides}
        for seed in range(seeds):
            for name, run in sides.items():
                settle()
                stopwatch = Stopwatch()
                curve = run(seed)
                curves[name].append(curve)
                print_run(name, seed, curve, stopwatch.cpu_s)
    figures: dict[str, float] = {}
    for name, runs in curves.items():
        figures |= figures_of(name, runs, MARKS)
    targets = {
        f"ours: {limit:g} s / s to {mark:.1%}, median seed": 1.0 for mark, limit in MARKS.items()
    }
    conclude("time_to_accuracy", watch, figures, targets, notes_of(task, sides, options))


def sides_of(task: Task, limit_s: float, *, ours_only: bool) -> dict[str, Callable[[int], Curve]]:
    """Return what is compared, by name."""
    sides: dict[str, Callable[[int], Curve]] = {"ours": partial(ours, task)}
    lightning = lightning_side()
    if not ours_only:
        sides["naive"] = partial(naive, task, limit_s=limit_s)
        if lightning is not None:
            sides["lightning"] = lambda seed: lightning(task, seed, limit_s)
    return sides


def print_run(name: str, seed: int, curve: Curve, cpu_s: float) -> None:
    """Print one run: accuracy and seconds at the end of each epoch."""
    points = "  ".join(f"{point.top1:.2%} at {point.seconds:.1f} s" for point in curve.points)
    print(f"{name}, seed {seed}: {points}  ({cpu_s:.0f} cpu-s with evaluation)", flush=True)


def notes_of(
    task: Task, sides: Mapping[str, Callable[[int], Curve]], options: argparse.Namespace
) -> list[str]:
    """Return what has to be known beside the figures."""
    which = "held-out training images" if options.validation else "test images"
    notes = [
        f"{options.threads} thread(s); accuracy on {len(task.test[1]):,} {which}, "
        f"{len(task.train[1]):,} to learn from"
    ]
    if "lightning" not in sides and not options.ours_only:
        notes.append("lightning was not measured: pip install 'dlpipe[peers]'")
    return notes


def _open(options: argparse.Namespace, scratch: Path) -> Task:
    """Prepare the data: the configuration's own, a part held out of it, or a few made up."""
    overrides: list[str] = []
    idx = Path()
    if options.quick:
        idx = scratch
        write_blobs(idx, classes=10, train=1100, test=200)
        overrides = ["stages.train.epochs=1", "stages.train.schedule.warmup_epochs=0.5"]
    else:
        idx = idx_of(load_config(options.config))
        if options.validation:
            hold_out(idx, scratch)
            idx = scratch
    chain = load_config(
        options.config, [*overrides, f"{IDX}={idx}", "stages.train.rehearsal=false",
                 "stages.train.target=null", f"stages.train.threads={options.threads}"]
    )  # fmt: skip
    prepared = scratch / "augment"
    prepared.mkdir()
    return open_task(chain, idx, prepared)


def idx_of(chain: ChainConfig) -> Path:
    """Return the folder that a configuration takes its images from."""
    config = next(entry.config for entry in chain.stages if entry.name == "augment")
    assert isinstance(config, AugmentConfig)
    assert isinstance(config.dataset, IdxDataset), "the configuration has no idx data set"
    return Path(config.dataset.idx)


if __name__ == "__main__":
    main()
