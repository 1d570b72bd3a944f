"""Training: steps a second of our loop, of loops by hand, and of other frameworks' loops.

python -m benchmarks.training [--compile] [--peers | --no-peers]

``plain`` is a first script (fp32, channels first, default optimizer), ``bare`` the fastest loop
that can be written by hand, and ``bare + EMA`` the same with the average of the weights that ours
keeps: the same operations. Beyond them ours has a schedule, a NaN guard, metrics and progress, and
runs under deterministic kernels, as the stage does. Peers (Accelerate, Lightning, fastai) train the
same network on the same batches with the same fused optimizer, in fp32 and without EMA; what they
do around their loop is not counted. Every side has one thread, so that on an idle machine wall and
CPU time agree; ratios are of CPU time, which is right on a busy one too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.machine import Watch
from benchmarks.measure import Measured, Side, Turn, take_turns
from benchmarks.networks import SMALL_CNN, TINY_MLP, Network, resnet18
from benchmarks.our_loop import ours
from benchmarks.peers import PEERS, missing_packages, open_peers
from benchmarks.trainees import Trainee, bare, plain, random_batches
from stages.train.precision import Name

PLAIN, BARE_FP32, BARE_BF16 = "plain fp32", "bare fp32", "bare bf16"
SAME_FP32, SAME_BF16 = "bare fp32 + EMA", "bare bf16 + EMA"
OURS_FP32, OURS_BF16 = "ours fp32", "ours bf16"
OURS_FP32_NO_EMA, OURS_BF16_NO_EMA = "ours fp32, no EMA", "ours bf16, no EMA"
COMPILED_FP32, COMPILED_BF16 = "bare fp32 compiled", "bare bf16 compiled"

RATIOS = (
    (OURS_BF16, PLAIN), (BARE_BF16, PLAIN), (BARE_BF16, BARE_FP32), (OURS_FP32, SAME_FP32),
    (OURS_FP32, BARE_FP32), (OURS_FP32_NO_EMA, BARE_FP32), (OURS_BF16, SAME_BF16),
    (OURS_BF16, BARE_BF16), (OURS_BF16_NO_EMA, BARE_BF16),
    *((OURS_FP32_NO_EMA, peer) for peer in PEERS), *((OURS_FP32, peer) for peer in PEERS),
    (COMPILED_FP32, BARE_FP32), (COMPILED_BF16, BARE_BF16),
)  # fmt: skip
OVERHEAD = "tiny MLP: ours fp32 over bare fp32, us a step"
TARGETS = {
    f"resnet18: {OURS_BF16} / {PLAIN}": 1.5,
    f"small CNN: {OURS_BF16} / {PLAIN}": 2.6,
    **{f"{network}: {OURS_FP32} / {SAME_FP32}": 0.98 for network in ("resnet18", "small CNN")},
    **{f"{network}: {OURS_BF16} / {SAME_BF16}": 0.98 for network in ("resnet18", "small CNN")},
}
PEER_TARGETS = {
    f"{network}: {OURS_FP32_NO_EMA} / {peer}": 1.0
    for network in ("resnet18", "tiny MLP")
    for peer in PEERS
}
AT_MOST = {OVERHEAD: 80.0}
THREADS = 1
"""Two would wait for each other at every operator, and on a busy machine for others too."""
_ROUNDS = 10
_CHECKED_STEPS = 2
_TOLERANCE = {"fp32": 0.005, "bf16": 0.05}
"""How far the mean loss of the first steps may be off, as a share of that of the plain loop."""


def main() -> None:
    parser = make_parser("training", __doc__, rounds=_ROUNDS)
    parser.add_argument(
        "--compile", action="store_true", help="also torch.compile, which takes minutes to start"
    )
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, help="left out: unless --quick"
    )
    options = parser.parse_args()
    watch, rounds = Watch(), rounds_of(options)
    torch.set_num_threads(THREADS)
    with_peers = not options.quick if options.peers is None else options.peers
    size, batch_size = (32, 2) if options.quick else (64, 16)
    plan: list[tuple[str, Network, int, int]] = [
        ("resnet18", resnet18(size), batch_size, 4), ("small CNN", SMALL_CNN, 4 * batch_size, 8),
        ("tiny MLP", TINY_MLP, 2 * batch_size, 1000),
    ]  # fmt: skip
    figures: dict[str, float] = {}
    for name, network, batch_size, steps in plan:
        with TemporaryDirectory(prefix="dlpipe-training-") as scratch:
            trainees = open_trainees(network, batch_size, Path(scratch), compiled=options.compile)
            if with_peers:
                trainees |= open_peers(network, random_batches(network, batch_size))
            check_same_work(trainees)
            steps = _CHECKED_STEPS if options.quick else steps
            measured = take_turns(_sides(trainees, steps), rounds=rounds, unit="step")
        print_table(f"{network.title}, batch {batch_size}", measured, BARE_FP32)
        figures |= figures_of(name, measured)
    targets = TARGETS | {name: least for name, least in PEER_TARGETS.items() if name in figures}
    notes = notes_of(compiled=options.compile, with_peers=with_peers)
    conclude("training", watch, figures, targets, notes, at_most=AT_MOST)


def notes_of(*, compiled: bool, with_peers: bool) -> list[str]:
    """Say how it was measured, and what was not."""
    notes = [f"{THREADS} thread"]
    if not compiled:
        notes.append("torch.compile was not measured; --compile adds it and some minutes")
    if not with_peers:
        notes.append("other frameworks were not measured; --peers adds those that are installed")
    elif missing := missing_packages():
        notes.append(
            f"not installed, so not measured: {', '.join(missing)} (pip install 'dlpipe[peers]')"
        )
    return notes


def open_trainees(
    network: Network, batch_size: int, folder: Path, *, compiled: bool
) -> dict[str, Trainee]:
    """Set up every side with the same weights and batches."""
    batches = random_batches(network, batch_size)
    trainees: dict[str, Trainee] = {
        PLAIN: plain(network, batches),
        BARE_FP32: bare(network, batches, bf16=False),
        BARE_BF16: bare(network, batches, bf16=True),
        SAME_FP32: bare(network, batches, bf16=False, average=True),
        SAME_BF16: bare(network, batches, bf16=True, average=True),
    }
    own: list[tuple[str, Name, bool]] = [
        (OURS_FP32, "fp32", True), (OURS_FP32_NO_EMA, "fp32", False),
        (OURS_BF16, "bf16", True), (OURS_BF16_NO_EMA, "bf16", False),
    ]  # fmt: skip
    for name, precision, ema in own:
        trainees[name] = ours(
            network, batches, folder, precision=precision, ema=ema, threads=THREADS
        )
    if compiled:
        trainees[COMPILED_FP32] = bare(network, batches, bf16=False, compiled=True)
        trainees[COMPILED_BF16] = bare(network, batches, bf16=True, compiled=True)
    return trainees


def check_same_work(trainees: Mapping[str, Trainee]) -> None:
    """Let every side take its first steps: they must meet the same losses.

    Each loss depends on the updates before it, so this compares optimizers too.

    Raises:
        AssertionError: a side learns something else.
    """
    expected = trainees[PLAIN].learn(_CHECKED_STEPS).loss
    for name, trainee in trainees.items():
        if name == PLAIN:
            continue
        found = trainee.learn(_CHECKED_STEPS).loss
        limit = _TOLERANCE["bf16" if "bf16" in name else "fp32"] * expected
        assert abs(found - expected) <= limit, f"{name}: loss {found}, plain loop {expected}"


def figures_of(name: str, measured: Measured) -> dict[str, float]:
    """Return speeds and ratios by name."""
    figures = rates(name, measured)
    for side, other in RATIOS:
        if {side, other} <= measured.turns.keys():
            figures[f"{name}: {side} / {other}"] = measured.ratio(side, other, "cpu")
    figures[f"{name}: ours fp32 over bare fp32, us a step"] = extra_us(measured)
    return figures


def extra_us(measured: Measured) -> float:
    """Return the microseconds that our step takes longer than the bare one: median of rounds."""
    pairs = zip(measured.turns[OURS_FP32], measured.turns[BARE_FP32], strict=True)
    return median(1 / ours.rate("cpu") - 1 / bare.rate("cpu") for ours, bare in pairs) * 1e6


def _sides(trainees: Mapping[str, Trainee], steps: int) -> list[Side]:
    return [Side(name, _turn(trainee, steps)) for name, trainee in trainees.items()]


def _turn(trainee: Trainee, steps: int) -> Callable[[], Turn]:
    return lambda: trainee.learn(steps).turn


if __name__ == "__main__":
    main()
