"""Precision: what bf16 gains over eager fp32, network by network, and what it costs in accuracy.

python -m benchmarks.precision

``plain`` is a first script: fp32, channels first, torch's default optimizer. ``bare bf16`` is the
fastest loop by hand: autocast, channels last, fused optimizer. ``ours bf16`` is the train stage's
loop with guard, schedule and metrics, as ``precision: auto`` sets it up on a CPU with bf16 units.
Accuracy: the handwritten digits of scikit-learn, trained by our step in both precisions from three
seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch

from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.digits import top1_of
from benchmarks.machine import Watch
from benchmarks.measure import Side, Turn, take_turns
from benchmarks.networks import SMALL_CNN, Network, resnet18
from benchmarks.our_loop import ours
from benchmarks.trainees import Trainee, bare, plain, random_batches
from pipeline.device import CPU
from stages.train.precision import Name, detect_units

PLAIN, BARE, OURS = "plain fp32", "bare bf16", "ours bf16"
RESNET50 = Network(title="resnet50 at 64x64", model="resnet50", size=64)
VIT_S = Network(title="ViT-S/16 at 64x64", model="vit_small_patch16_224", size=64)
NETWORKS: tuple[tuple[str, Network, int, int, float], ...] = (
    ("small CNN", SMALL_CNN, 64, 24, 2.6),
    ("resnet50", RESNET50, 8, 6, 2.2),
    ("resnet18 at 224", resnet18(224), 4, 6, 2.0),
    ("ViT-S", VIT_S, 16, 6, 1.4),
)
"""Name, network, batch size, steps of a turn, and how many times as fast as plain it has to be.

A turn of two steps is mostly the memory that a side gets back page by page after the others' turns.
"""
TARGETS = {f"{name}: {OURS} / {PLAIN}": least for name, _, _, _, least in NETWORKS}
GAP = "digits: top-1 that bf16 loses to fp32, points, mean of the seeds"
AT_MOST = {GAP: 0.5}
SEEDS = (0, 1, 2)
THREADS = 1
_EPOCHS = 8


def main() -> None:
    options = make_parser("precision", __doc__).parse_args()
    watch, rounds = Watch(), rounds_of(options)
    torch.set_num_threads(THREADS)
    figures: dict[str, float] = {}
    networks = NETWORKS[:1] if options.quick else NETWORKS
    for name, network, batch_size, steps, _ in networks:
        batch_size, steps = (2, 1) if options.quick else (batch_size, steps)
        batches = random_batches(network, batch_size)
        with TemporaryDirectory(prefix="dlpipe-precision-") as scratch:
            trainees: dict[str, Trainee] = {
                PLAIN: plain(network, batches),
                BARE: bare(network, batches, bf16=True),
                OURS: ours(
                    network, batches, Path(scratch), precision="bf16", ema=False, threads=THREADS
                ),
            }
            sides = [Side(side, _turn(trainee, steps)) for side, trainee in trainees.items()]
            measured = take_turns(sides, rounds=rounds, unit="step")
        print_table(f"{network.title}, batch {batch_size}", measured, PLAIN)
        figures |= rates(name, measured)
        for side in (BARE, OURS):
            figures[f"{name}: {side} / {PLAIN}"] = measured.ratio(side, PLAIN, "cpu")
    figures |= accuracies(epochs=1 if options.quick else _EPOCHS)
    notes = [f"{THREADS} thread"]
    if not detect_units(CPU).bf16:
        notes.append("this CPU has no bf16 units; precision: auto would take fp32 here")
    targets = {target: least for target, least in TARGETS.items() if target in figures}
    conclude("precision", watch, figures, targets, notes, at_most=AT_MOST)


def accuracies(epochs: int) -> dict[str, float]:
    """Return top-1 in percent by precision: mean, and lowest and highest of the seeds."""
    figures: dict[str, float] = {}
    precisions: tuple[Name, ...] = ("fp32", "bf16")
    for name in precisions:
        found = [100 * top1_of(name, seed, epochs) for seed in SEEDS]
        told = ", ".join(f"{top1:.2f}" for top1 in found)
        print(f"\ndigits, {epochs} epochs in {name}: top-1 {told} % (seeds {SEEDS})")
        figures[f"digits: top-1 in {name}, mean"] = mean(found)
        figures[f"digits: top-1 in {name}, lowest"] = min(found)
        figures[f"digits: top-1 in {name}, highest"] = max(found)
    fp32, bf16 = (figures[f"digits: top-1 in {name}, mean"] for name in precisions)
    return {**figures, GAP: fp32 - bf16}


def _turn(trainee: Trainee, steps: int) -> Callable[[], Turn]:
    return lambda: trainee.learn(steps).turn


if __name__ == "__main__":
    main()
