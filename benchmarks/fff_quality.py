"""FFF quality: what fast feedforward layers cost in accuracy, beside their controls.

python -m benchmarks.fff_quality [--seeds 5] [--epochs 40]

A small ViT learns scikit-learn's digits with the same recipe and different feedforward layers: fast
ones; dense ones of as many neurons; dense ones of as many neurons as work for a token in the fast
ones; linear ones; none at all. Figures are means over seeds, with their standard errors. Keeping a
share of the dense network's accuracy says nothing without the controls: where none at all does
nearly as well, the task does not need these layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import mean, stdev

import torch
from torch import nn

from benchmarks.clock import Stopwatch
from benchmarks.command import conclude
from benchmarks.digits import SIZES, top1_of
from benchmarks.machine import Watch
from stages.train.fff.layer import fast_layers
from stages.train.models.classifier import ImageClassifier
from stages.train.models.factory import build_model

WIDTH = 48
FAST = {"one tree, depth 6": (6, 1), "4 trees, depth 4": (4, 4), "16 trees, depth 2": (2, 16)}
"""Depth and trees of each form; all have about as many neurons."""
NEURONS = 128
_MODEL = "vit_tiny_patch16_224"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fff_quality", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one epoch, one seed: does it run?")
    parser.add_argument("--seeds", type=int, help="5 if left out")
    parser.add_argument("--epochs", type=int, help="40 if left out")
    options = parser.parse_args()
    seeds = options.seeds or (1 if options.quick else 5)
    epochs = options.epochs or (1 if options.quick else 40)
    watch = Watch()
    figures: dict[str, float] = {}
    print(f"{'feedforward layers':34}  {'top-1':>7}  {'std. error':>10}  seeds")
    for name, build in networks().items():
        stopwatch = Stopwatch()
        found = [100 * top1_of("fp32", seed, epochs, build) for seed in range(seeds)]
        error = stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("inf")
        told = ", ".join(f"{top1:.2f}" for top1 in found)
        spent = f"({stopwatch.cpu_s:.0f} cpu-s)"
        print(f"{name:34}  {mean(found):6.2f}%  {error:10.2f}  {told}  {spent}", flush=True)
        figures[f"{name}: top-1"] = mean(found)
        if len(found) > 1:
            figures[f"{name}: standard error"] = error
    conclude("fff_quality", watch, figures, {}, [f"digits, {epochs} epochs, {seeds} seed(s)"])


def networks() -> dict[str, Callable[[], ImageClassifier]]:
    """Return what builds each network: fast ones, and after each the dense one as narrow."""
    found: dict[str, Callable[[], ImageClassifier]] = {
        f"dense, {NEURONS} neurons": partial(vit, neurons=NEURONS)
    }
    for name, (depth, trees) in FAST.items():
        active = (depth + 1) * trees
        found[f"fast, {name} ({active} at work)"] = partial(
            vit, fff={"depth": depth, "trees": trees}
        )
        found[f"dense, {active} neurons"] = partial(vit, neurons=active)
    found["linear"] = partial(vit, other=lambda: nn.Linear(WIDTH, WIDTH))
    found["none"] = partial(vit, other=_Nothing)
    return found


class _Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def vit(
    *,
    neurons: int = NEURONS,
    fff: dict[str, int] | None = None,
    other: Callable[[], nn.Module] | None = None,
) -> ImageClassifier:
    """Return a ViT for digits: 16 patches of 2 by 2 pixels, four blocks.

    Args:
        neurons: of its dense feedforward layers.
        fff: settings of fast ones in their place.
        other: makes something else in their place.
    """
    module = build_model(
        _MODEL, **SIZES, fff=fff, patch_size=2, embed_dim=WIDTH, depth=4, num_heads=4,
        mlp_ratio=neurons / WIDTH,
    )  # fmt: skip
    if other is not None:
        for block in module.body.blocks:
            block.mlp = other()
    assert bool(fast_layers(module)) == (fff is not None)
    return module


if __name__ == "__main__":
    main()
