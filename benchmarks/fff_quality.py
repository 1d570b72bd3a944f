"""FFF quality: what fast feedforward layers cost in accuracy, beside their controls.

python -m benchmarks.fff_quality [--task digits|texts] [--seeds 5] [--epochs 40]

A small ViT learns scikit-learn's digits, or an encoder package descriptions, with the same recipe
and different feedforward layers: fast ones; dense ones of as many neurons; dense ones of as many
neurons as work for a token in the fast ones; linear ones; none at all. Figures are means over
seeds, with their standard errors. Keeping a share of the dense network's accuracy says nothing
without the controls: where none at all does nearly as well, the task does not need these layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev
from typing import Protocol

import torch
from torch import nn

from benchmarks import digits, package_texts
from benchmarks.clock import Stopwatch
from benchmarks.command import conclude
from benchmarks.machine import Watch
from stages.train.fff.layer import fast_layers
from stages.train.models.classifier import Classifier
from stages.train.models.factory import build_model

_VIT = "vit_tiny_patch16_224"
_TEXT_BATCHES = 128


class Build(Protocol):
    """Makes the network of a task, with fresh weights."""

    def __call__(self, *, mlp_ratio: float, fff: dict[str, int] | None) -> Classifier:
        """Return it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is learned, by networks of which size."""

    title: str
    width: int
    neurons: int
    """Of the widest dense layers."""
    fast: Mapping[str, tuple[int, int]]
    """Depth and trees of each form; all have about as many neurons as the widest dense layers."""
    epochs: int
    build: Build
    train: Callable[[int, int, Callable[[], Classifier]], float]
    """Returns the share of right answers, from seed, epochs and network."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fff_quality", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one epoch, one seed: does it run?")
    parser.add_argument("--task", choices=("digits", "texts"), default="digits")
    parser.add_argument("--seeds", type=int, help="5 if left out")
    parser.add_argument("--epochs", type=int, help="40 for digits and 3 for texts if left out")
    options = parser.parse_args()
    task = (
        digits_task()
        if options.task == "digits"
        else texts_task(2 if options.quick else _TEXT_BATCHES)
    )
    seeds = options.seeds or (1 if options.quick else 5)
    epochs = options.epochs or (1 if options.quick else task.epochs)
    watch = Watch()
    figures: dict[str, float] = {}
    print(f"{'feedforward layers':34}  {'top-1':>7}  {'std. error':>10}  seeds")
    for name, build in networks(task).items():
        stopwatch = Stopwatch()
        found = [100 * task.train(seed, epochs, build) for seed in range(seeds)]
        error = stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("inf")
        told = ", ".join(f"{top1:.2f}" for top1 in found)
        spent = f"({stopwatch.cpu_s:.0f} cpu-s)"
        print(f"{name:34}  {mean(found):6.2f}%  {error:10.2f}  {told}  {spent}", flush=True)
        figures[f"{name}: top-1"] = mean(found)
        if len(found) > 1:
            figures[f"{name}: standard error"] = error
    conclude("fff_quality", watch, figures, {}, [f"{task.title}, {epochs} epochs, {seeds} seed(s)"])


def digits_task() -> Task:
    """Return digits, read by a ViT of 16 patches of 2 by 2 pixels and four blocks."""
    return Task(
        title="digits", width=48, neurons=128, epochs=40,
        fast={
            "one tree, depth 6": (6, 1), "4 trees, depth 4": (4, 4), "16 trees, depth 2": (2, 16)
        },
        build=partial(
            build_model, _VIT, **digits.SIZES, patch_size=2, embed_dim=48, depth=4, num_heads=4
        ),
        train=lambda seed, epochs, build: digits.top1_of("fp32", seed, epochs, build),
    )  # fmt: skip


def texts_task(batches: int) -> Task:
    """Return package descriptions, read by an encoder of two blocks."""
    spec = package_texts.data(batches)
    return Task(
        title=f"{spec.splits['train'].samples:,} package descriptions in {len(spec.classes)} "
        f"sections ({spec.digest[:12]})",
        width=128, neurons=512, epochs=3,
        fast={
            "one tree, depth 8": (8, 1), "8 trees, depth 5": (5, 8), "32 trees, depth 3": (3, 32)
        },
        build=partial(package_texts.encoder, spec, 128),
        train=partial(package_texts.top1_of, spec),
    )  # fmt: skip


def networks(task: Task) -> dict[str, Callable[[], Classifier]]:
    """Return what builds each network: fast ones, and after each the dense one as narrow."""
    found: dict[str, Callable[[], Classifier]] = {
        f"dense, {task.neurons} neurons": partial(network, task, neurons=task.neurons)
    }
    for name, (depth, trees) in task.fast.items():
        active = (depth + 1) * trees
        found[f"fast, {name} ({active} at work)"] = partial(
            network, task, fff={"depth": depth, "trees": trees}
        )
        found[f"dense, {active} neurons"] = partial(network, task, neurons=active)
    found["linear"] = partial(network, task, other=lambda: nn.Linear(task.width, task.width))
    found["none"] = partial(network, task, other=_Nothing)
    return found


class _Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def network(
    task: Task,
    *,
    neurons: int | None = None,
    fff: dict[str, int] | None = None,
    other: Callable[[], nn.Module] | None = None,
) -> Classifier:
    """Return the network of a task.

    Args:
        task: what it is to learn.
        neurons: of its dense feedforward layers; the task's if left out.
        fff: settings of fast ones in their place.
        other: makes something else in their place.
    """
    module = task.build(mlp_ratio=(neurons or task.neurons) / task.width, fff=fff)
    if other is not None:
        for block in module.body.blocks:
            block.mlp = other()
    assert bool(fast_layers(module)) == (fff is not None)
    return module


if __name__ == "__main__":
    main()
