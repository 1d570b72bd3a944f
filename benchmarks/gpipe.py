"""Pipeline: the gradient of a mini-batch on two cores against one, by micro-batches.

python -m benchmarks.gpipe [--quick] [--rounds N] [--schedule 1f1b]

A step is forward and backward of one mini-batch of the reference transformer (no optimizer), each
stage with one thread. ``plain`` is gradient accumulation written by hand, in as many micro-batches
as the pipeline; ``best plain`` is the number of micro-batches with which that is fastest. K stages
of equal cost reach K M / (M + K - 1) at best: the ideal. ``our zero bubble`` is our pipeline, too,
with `schedule: zero_bubble`, for which that is no bound.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.language_model import Shape, chain_of, language_model, words_of
from benchmarks.machine import Watch
from benchmarks.measure import Measured, Side, take_turns, timed
from benchmarks.torch_pipeline import TorchPipeline
from pipeline.device import CPU
from stages.augment.loader import Batch
from stages.train.gpipe.planner import plan_pipeline
from stages.train.gpipe.probe import probe
from stages.train.gpipe.processes import Processes
from stages.train.gpipe.setup import Setup
from stages.train.micro_batches import MicroBatches
from stages.train.parallel_config import ParallelConfig
from stages.train.precision import FP32

PLAIN, BEST, OURS, ZERO, TORCH, PIECES = (
    "plain", "best plain", "our pipeline", "our zero bubble", "torch pipelining",
    "our accumulation",
)  # fmt: skip
PIPELINES = (OURS, ZERO)
STAGES = 2
MICRO_BATCHES = (1, 4, 8, 16, 32)
ROUNDS = 10
"""Of one step each: the sides of a round run within seconds, however the machine's clock moves."""
TARGETS = {
    name: target
    for side in PIPELINES
    for name, target in (
        *((f"M={m}: {side} / {PLAIN} / ideal", 0.96) for m in (4, 8, 16)),
        (f"M=32: {side} / {PLAIN} / ideal", 0.90),
        (f"{side} at its best / {BEST}", 1.8),
        *((f"M={m}: {side} / {TORCH}", 1.1 if m in (8, 16) else 1.0) for m in MICRO_BATCHES),
    )
} | {
    f"M=8: {PIECES} / {PLAIN}": 0.98,
}
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""As our engine has it for its processes; here for every side."""
_SCALER = torch.amp.GradScaler("cpu", enabled=False)

Step = Callable[[], torch.Tensor]


def main() -> None:
    parser = make_parser("gpipe", __doc__, rounds=ROUNDS)
    parser.add_argument("--schedule", choices=["gpipe", "1f1b"], default="gpipe")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    watch, rounds = Watch(), rounds_of(options)
    shape = Shape(blocks=2, width=48, tokens=16, batch=32) if options.quick else Shape()
    best = best_plain(shape)
    figures: dict[str, float] = {f"{BEST}: micro-batches": best}
    with TemporaryDirectory(prefix="dlpipe-gpipe-") as folder:
        setup, zero = replace(plan(shape), schedule=options.schedule), plan(shape, "zero_bubble")
        cut = setup.bounds[1]
        with closing(TorchPipeline(Path(folder), cut, shape)) as theirs:
            for micro_batches in MICRO_BATCHES:
                with sides(shape, (setup, zero), micro_batches, best, theirs) as by_name:
                    check_same_work(by_name)
                    turns = [Side(n, timed(_work(step))) for n, step in by_name.items()]
                    measured = take_turns(turns, rounds=rounds, unit="step")
                print_table(f"M={micro_batches}", measured, PLAIN)
                figures |= figures_of(micro_batches, measured)
    for side in PIPELINES:
        figures[f"{side} at its best / {BEST}"] = max(
            figures[f"M={m}: {side} / {BEST}"] for m in MICRO_BATCHES
        )
    notes = [
        f"{STAGES} stages, one thread each; schedule {options.schedule}; cut at block {cut}, with "
        f"zero bubble at {zero.bounds[1]}"
    ]
    conclude("gpipe", watch, figures, TARGETS, notes)


def keep_memory() -> None:
    """Start this process anew with glibc's settings for programs that reuse their memory."""
    if any(os.environ.get(name) != value for name, value in _KEEP_MEMORY.items()):
        environment = {**os.environ, **_KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.gpipe", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)


def best_plain(shape: Shape) -> int:
    """Return the number of micro-batches with which plain accumulation is fastest."""
    model, batch = language_model(shape), words_of(shape)
    turns = [Side(str(m), timed(_work(_plain(model, batch, m)))) for m in MICRO_BATCHES]
    measured = take_turns(turns, rounds=5, unit="step")
    return max(MICRO_BATCHES, key=lambda m: measured.rate(str(m), "cpu"))


def plan(shape: Shape, schedule: Literal["gpipe", "zero_bubble"] = "gpipe") -> Setup:
    """Return the pipeline that the planner makes of the model; torch has the cut of gpipe."""
    chain, batch = chain_of(language_model(shape)), words_of(shape)
    config = ParallelConfig(pipeline=STAGES, micro_batches=8, schedule=schedule)
    planned = plan_pipeline(config, chain, batch.inputs, loss=_loss)
    return Setup(
        chain=chain, bounds=planned.bounds, micro_batches=8, schedule=schedule,
        traits=probe(chain, batch.inputs[:1], FP32, CPU).traits, recompute="never",
        precision=FP32, device=CPU, label_smoothing=0.0, seed=0, timeout_s=600,
    )  # fmt: skip


@contextmanager
def sides(
    shape: Shape, setups: tuple[Setup, Setup], micro_batches: int, best: int, theirs: TorchPipeline
) -> Iterator[Mapping[str, Step]]:
    """Set up every side with the same weights and the same mini-batch."""
    batch = words_of(shape)
    ours, zero = language_model(shape), language_model(shape)
    setup, other = (
        replace(one, chain=chain_of(model), micro_batches=micro_batches)
        for one, model in zip(setups, (ours, zero), strict=True)
    )
    pieces = language_model(shape)
    accumulation = MicroBatches(pieces, pieces, FP32, CPU, 0.0, micro_batches)
    theirs.prepare(micro_batches)
    with (
        closing(Processes(setup, threads=1)) as engine,
        closing(Processes(other, threads=1)) as zero_engine,
    ):
        yield {
            PLAIN: _plain(language_model(shape), batch, micro_batches),
            BEST: _plain(language_model(shape), batch, best),
            PIECES: _ours(pieces, accumulation, batch),
            OURS: _ours(ours, engine, batch),
            ZERO: _ours(zero, zero_engine, batch),
            TORCH: theirs.step,
        }


def check_same_work(by_name: Mapping[str, Step]) -> None:
    """Take a step of every side.

    Raises:
        AssertionError: a side finds another loss.
    """
    expected = float(by_name[PLAIN]())
    for name, step in by_name.items():
        found = float(step())
        assert abs(found - expected) < 1e-4, f"{name}: loss {found}, plain {expected}"


def figures_of(micro_batches: int, measured: Measured) -> dict[str, float]:
    """Return speeds and ratios by name."""
    prefix = f"M={micro_batches}"
    figures = rates(prefix, measured)
    ideal = STAGES * micro_batches / (micro_batches + STAGES - 1)
    for side in PIPELINES:
        speedup = measured.ratio(side, PLAIN)
        figures[f"{prefix}: {side} / {PLAIN}"] = speedup
        figures[f"{prefix}: {side} / {PLAIN} / ideal"] = speedup / ideal
        figures[f"{prefix}: {side} / {BEST}"] = measured.ratio(side, BEST)
        figures[f"{prefix}: {side} / {TORCH}"] = measured.ratio(side, TORCH)
        figures[f"{prefix}: {side} / {PLAIN}, by CPU time"] = measured.ratio(side, PLAIN, "cpu")
    figures[f"{prefix}: {TORCH} / {PLAIN}"] = measured.ratio(TORCH, PLAIN)
    figures[f"{prefix}: {PIECES} / {PLAIN}"] = measured.ratio(PIECES, PLAIN, "cpu")
    return figures


def _plain(model: nn.Module, batch: Batch, micro_batches: int) -> Step:
    pieces = list(
        zip(batch.inputs.chunk(micro_batches), batch.targets.chunk(micro_batches), strict=True)
    )

    def step() -> torch.Tensor:
        model.zero_grad()
        total = torch.zeros(())
        for words, following in pieces:
            loss = cross_entropy(model(words), following) / micro_batches
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    return step


def _ours(model: nn.Module, gradients: Processes | MicroBatches, batch: Batch) -> Step:
    def step() -> torch.Tensor:
        model.zero_grad()
        return gradients.backward(batch, _SCALER, 0)

    return step


def _loss(logits: torch.Tensor) -> torch.Tensor:
    targets = torch.zeros(len(logits), logits.shape[-1], dtype=torch.int64)
    return cross_entropy(logits, targets)


def _work(step: Step) -> Callable[[], float]:
    def work() -> float:
        step()
        return 1

    return work


if __name__ == "__main__":
    main()
