"""Training: steps a second of our loop, and of loops written by hand around the same network.

python -m benchmarks.training [--compile]

``plain`` is a first script (fp32, channels first, default optimizer), ``bare`` the fastest loop
that can be written by hand. Ours does more in a step: schedule, NaN guard, metrics, progress and a
moving average of the weights (EMA, on by default). Ours runs under deterministic kernels, as the
stage does. Every side has one thread, so that on an idle machine wall and CPU time agree; ratios
are of CPU time, which is right on a busy one too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.machine import Watch
from benchmarks.measure import Measured, Side, take_turns, timed
from benchmarks.networks import SMALL_CNN, TINY_MLP, Network, resnet18
from benchmarks.trainees import EPOCH_STEPS, Trainee, bare, ours, plain, random_batches
from stages.train.precision import Name

PLAIN, BARE_FP32, BARE_BF16 = "plain fp32", "bare fp32", "bare bf16"
OURS_FP32, OURS_BF16 = "ours fp32", "ours bf16"
OURS_FP32_NO_EMA, OURS_BF16_NO_EMA = "ours fp32, no EMA", "ours bf16, no EMA"
COMPILED_FP32, COMPILED_BF16 = "bare fp32 compiled", "bare bf16 compiled"

RATIOS = (
    (OURS_BF16, PLAIN), (BARE_BF16, PLAIN), (BARE_BF16, BARE_FP32), (OURS_FP32, BARE_FP32),
    (OURS_FP32_NO_EMA, BARE_FP32), (OURS_BF16, BARE_BF16), (OURS_BF16_NO_EMA, BARE_BF16),
    (COMPILED_FP32, BARE_FP32), (COMPILED_BF16, BARE_BF16),
)  # fmt: skip
TARGETS = {
    f"resnet18: {OURS_BF16} / {PLAIN}": 1.5,
    f"small CNN: {OURS_BF16} / {PLAIN}": 2.5,
    f"resnet18: {OURS_FP32_NO_EMA} / {BARE_FP32}": 0.95,
    f"resnet18: {OURS_BF16_NO_EMA} / {BARE_BF16}": 0.95,
}
THREADS = 1
"""Two would wait for each other at every operator, and on a busy machine for others too."""
_CHECKED_STEPS = EPOCH_STEPS
_TOLERANCE = {"fp32": 0.005, "bf16": 0.05}
"""How far the mean loss of the first steps may be off, as a share of that of the plain loop."""


def main() -> None:
    parser = make_parser("training", __doc__)
    parser.add_argument(
        "--compile", action="store_true", help="also torch.compile, which takes minutes to start"
    )
    options = parser.parse_args()
    watch, rounds = Watch(), rounds_of(options)
    torch.set_num_threads(THREADS)
    size, batch_size = (32, 2) if options.quick else (64, 16)
    plan: list[tuple[str, Network, int, int]] = [
        ("resnet18", resnet18(size), batch_size, 4), ("small CNN", SMALL_CNN, 4 * batch_size, 8),
        ("tiny MLP", TINY_MLP, 2 * batch_size, 200),
    ]  # fmt: skip
    figures: dict[str, float] = {}
    for name, network, batch_size, steps in plan:
        with TemporaryDirectory(prefix="dlpipe-training-") as scratch:
            trainees = open_trainees(network, batch_size, Path(scratch), compiled=options.compile)
            check_same_work(trainees)
            steps = EPOCH_STEPS if options.quick else steps
            measured = take_turns(_sides(trainees, steps), rounds=rounds, unit="step")
        print_table(f"{network.title}, batch {batch_size}", measured, BARE_FP32)
        figures |= figures_of(name, measured)
    notes = [f"{THREADS} thread"]
    if not options.compile:
        notes.append("torch.compile was not measured; --compile adds it and some minutes")
    conclude("training", watch, figures, TARGETS, notes)


def open_trainees(
    network: Network, batch_size: int, folder: Path, *, compiled: bool
) -> dict[str, Trainee]:
    """Set up every side with the same weights and batches."""
    batches = random_batches(network, batch_size)
    trainees: dict[str, Trainee] = {
        PLAIN: plain(network, batches),
        BARE_FP32: bare(network, batches, bf16=False),
        BARE_BF16: bare(network, batches, bf16=True),
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
    expected = trainees[PLAIN].learn(_CHECKED_STEPS)
    for name, trainee in trainees.items():
        if name == PLAIN:
            continue
        found = trainee.learn(_CHECKED_STEPS)
        limit = _TOLERANCE["bf16" if "bf16" in name else "fp32"] * expected
        assert abs(found - expected) <= limit, f"{name}: loss {found}, plain loop {expected}"


def figures_of(name: str, measured: Measured) -> dict[str, float]:
    """Return speeds and ratios by name."""
    figures = rates(name, measured)
    for side, other in RATIOS:
        if side in measured.turns:
            figures[f"{name}: {side} / {other}"] = measured.ratio(side, other, "cpu")
    overhead_s = 1 / measured.rate(OURS_FP32, "cpu") - 1 / measured.rate(BARE_FP32, "cpu")
    figures[f"{name}: overhead of ours fp32, us a step"] = overhead_s * 1e6
    return figures


def _sides(trainees: Mapping[str, Trainee], steps: int) -> list[Side]:
    return [Side(name, timed(_work(trainee, steps))) for name, trainee in trainees.items()]


def _work(trainee: Trainee, steps: int) -> Callable[[], float]:
    def work() -> float:
        trainee.learn(steps)
        return steps

    return work


if __name__ == "__main__":
    main()
