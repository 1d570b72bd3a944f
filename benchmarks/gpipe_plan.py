"""Planner: predicted steps against real ones, and what fits in memory, beside published tables.

python -m benchmarks.gpipe_plan [--quick] [--rounds N]

Steps: the reference transformer through real processes, one thread each, K = 2 and 4; predicted
from a profile of single blocks taken before. With fewer cores than stages, the simulated stages
share them. Memory: bytes of fake tensors, for networks of any size without computing anything.
Published figures: GPipe (arXiv 1811.06965) and torchgpipe's replay of it (arXiv 2004.09910).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from statistics import median

import torch
from torch.nn.functional import cross_entropy

from benchmarks.command import conclude, make_parser, rounds_of
from benchmarks.language_model import Shape, chain_of, language_model, words_of
from benchmarks.machine import Watch
from benchmarks.networks import Network
from pipeline.device import CPU
from stages.augment.loader import Batch
from stages.train.allocator import freed_memory_kept
from stages.train.gpipe.budget import measure_budget
from stages.train.gpipe.chain import Chain
from stages.train.gpipe.depth import Depths
from stages.train.gpipe.family import Family, find_family
from stages.train.gpipe.memory import MemoryMeter, Recompute
from stages.train.gpipe.orders import Schedule
from stages.train.gpipe.partition import Bounds, partition
from stages.train.gpipe.pipeline_plan import PipelinePlan
from stages.train.gpipe.planner import plan_pipeline
from stages.train.gpipe.probe import probe
from stages.train.gpipe.processes import Processes
from stages.train.gpipe.profile import Profile, profile_chain
from stages.train.gpipe.setup import Setup
from stages.train.gpipe.simulate import Times, simulate
from stages.train.gpipe.split import split
from stages.train.gpipe.weights import ParameterBytes
from stages.train.parallel_config import ParallelConfig
from stages.train.precision import FP32

MICRO_BATCHES = (2, 4, 8, 16, 32)
REAL_STAGES = (2, 4)
# Throughput of AmoebaNet-D over that of K=2, M=1: the paper (table 2), torchgpipe (its replay).
PAPER = {
    (2, 1): (1.0, 1.0), (2, 4): (1.07, 1.54), (2, 32): (1.21, 1.77),
    (4, 1): (1.13, 1.0), (4, 4): (1.26, 1.67), (4, 32): (1.84, 2.71),
    (8, 1): (1.38, 0.93), (8, 4): (1.72, 2.62), (8, 32): (3.48, 4.95),
}  # fmt: skip
STEPS = 3
"""Of each round; the fastest one counts, as the simulated one waits for nobody else."""
GIB = 2**30
PER_PARAMETER = ParameterBytes(optimizer=4)
"""12 bytes, as in the paper: weight, gradient, and one moment of RMSProp."""
TARGETS = {
    **{f"K=2 M={m}: predicted against real": 0.95 for m in MICRO_BATCHES},
    **{f"K=4 M={m}: predicted against real": 0.90 for m in MICRO_BATCHES if m >= 4},
    "throughput rises with K at M=32 and with M at K=8, as published": 1.0,
    "activations, naive / stage computed again": 14.0,
    "activations, naive / block by block": 35.0,
    "largest network, K=1 / naive": 7.0,
    "largest network, K=8 / naive": 50.0,
    "largest network, K=8 1f1b without recomputation / naive": 22.0,
}
_SCALER = torch.amp.GradScaler("cpu", enabled=False)


def main() -> None:
    options = make_parser("gpipe_plan", __doc__).parse_args()
    torch.set_num_threads(1)
    watch, rounds = Watch(), rounds_of(options)
    tiny = Shape(blocks=3, width=48, tokens=16, batch=32)
    shape = tiny if options.quick else Shape()
    with freed_memory_kept():  # as in training
        figures = validate(shape, rounds, (4,) if options.quick else MICRO_BATCHES)
    figures |= throughput(shape)
    resnet = Network(title="ResNet-50", model="resnet50", size=64 if options.quick else 224)
    figures |= activations(resnet, 32 if options.quick else 128)
    large = Shape(blocks=3, width=1024, heads=16, tokens=512, words=8192, batch=64)
    figures |= largest(tiny if options.quick else large, GIB // 512 if options.quick else 8 * GIB)
    targets = {name: least for name, least in TARGETS.items() if name in figures}
    conclude("gpipe_plan", watch, figures, targets)


def validate(shape: Shape, rounds: int, tried: Sequence[int]) -> dict[str, float]:
    """Compare simulated steps with those of real processes, by the clock and by CPU time.

    CPU time is that of the stage that worked longest; other programs do not disturb it.
    """
    print(f"\nsteps, predicted and real ({len(os.sched_getaffinity(0))} cores)")
    print(f" K   M {'bounds':20} {'predicted ms':>12} {'real ms':>9} {'ratio':>6} {'cpu':>6}")
    figures: dict[str, float] = {}
    for stages in REAL_STAGES:
        for micro_batches in (m for m in tried if m >= stages):
            bounds, pairs = predict_and_run(shape, stages, micro_batches, rounds)
            predicted, real, cpu = (median(column) for column in zip(*pairs, strict=True))
            name = f"K={stages} M={micro_batches}"
            figures[f"{name}: predicted, ms"] = 1e3 * predicted
            figures[f"{name}: real, ms"] = 1e3 * real
            figures[f"{name}: predicted against real"] = min(predicted / real, real / predicted)
            figures[f"{name}: CPU of the dearest stage, real / predicted"] = cpu
            print(
                f"{stages:2} {micro_batches:3} {bounds!s:20} {1e3 * predicted:12.1f} "
                f"{1e3 * real:9.1f} {real / predicted:6.3f} {cpu:6.3f}"
            )
    return figures


def predict_and_run(
    shape: Shape, stages: int, micro_batches: int, rounds: int
) -> tuple[Bounds, list[tuple[float, float, float]]]:
    """Return the cuts, and for each round the predicted and the fastest real seconds of a step.

    Third comes the CPU time of the dearest stage, real over predicted.
    """
    chain, batch = chain_of(language_model(shape)), words_of(shape)
    plan = planned(chain, batch, stages, micro_batches, cuts=None)
    cuts = [chain.blocks[cut].name for cut in plan.bounds[1:-1]]
    setup = Setup(
        chain=chain, bounds=plan.bounds, micro_batches=plan.micro_batches, schedule=plan.schedule,
        traits=probe(chain, batch.inputs[:1], FP32, CPU).traits, recompute=plan.recompute,
        precision=FP32, device=CPU, label_smoothing=0.0, seed=0, timeout_s=600,
    )  # fmt: skip
    pairs = []
    with closing(Processes(setup, threads=1)) as engine:
        for _ in range(rounds):
            predicted = planned(chain, batch, stages, micro_batches, cuts)
            busy_s = [
                1e-3 * micro_batches * (s.forward_ms + s.backward_ms) for s in predicted.stages
            ]
            real, cpu = [], []
            for step in range(STEPS + 1):
                engine.backward(batch, _SCALER, step)
                real.append(engine.timeline.makespan_s)
                cpu.append(max(engine.cpu_s) / max(busy_s))
            pairs.append((predicted.step_s, min(real[1:]), min(cpu[1:])))
    return plan.bounds, pairs


def planned(
    chain: Chain, batch: Batch, stages: int, micro_batches: int, cuts: list[str] | None
) -> PipelinePlan:
    """Time the blocks and return the plan."""
    size = len(batch.targets) // micro_batches
    profile = profile_chain(chain, batch.inputs, (size,), loss=_loss)
    config = ParallelConfig(pipeline=stages, micro_batches=micro_batches, cuts=cuts)
    return plan_pipeline(config, chain, batch.inputs, loss=_loss, profile=profile)


def throughput(shape: Shape) -> dict[str, float]:
    """Print the paper's table for the reference transformer, simulated with a device a stage."""
    chain, batch = chain_of(language_model(shape)), words_of(shape)
    profile = profile_chain(chain, batch.inputs, (4, 16, shape.batch), loss=_loss)
    whole = 4 * shape.batch
    steps = {(k, m): simulated_s(profile, whole, k, m) for k, m in PAPER}
    ours = {cell: steps[2, 1] / seconds for cell, seconds in steps.items()}
    print(
        "\nthroughput over that of K=2, M=1, with recomputation: ours simulated, AmoebaNet-D real"
    )
    print(f"{'K':>2} {'M':>3} {'ours':>6} {'paper':>6} {'torchgpipe':>10}")
    for (k, m), (paper, torchgpipe) in PAPER.items():
        print(f"{k:2} {m:3} {ours[k, m]:6.2f} {paper:6.2f} {torchgpipe:10.2f}")
    rising = ours[2, 32] < ours[4, 32] < ours[8, 32] and ours[8, 1] < ours[8, 4] < ours[8, 32]
    name = "throughput rises with K at M=32 and with M at K=8, as published"
    return {f"throughput K={k} M={m}": value for (k, m), value in ours.items()} | {
        name: float(rising)
    }


def simulated_s(profile: Profile, batch: int, stages: int, micro_batches: int) -> float:
    """Return the seconds of a step whose stages compute everything again, on K free devices."""
    size = batch / micro_batches
    forward, backward = profile.forward_s(size), profile.backward_s(size)
    costs = [2 * f + b for f, b in zip(forward, backward, strict=True)]
    bounds = partition(costs, stages)
    assert bounds is not None
    cells = [slice(start, stop) for start, stop in pairwise(bounds)]
    times = Times(
        forward_s=[sum(forward[cell]) for cell in cells],
        backward_s=[sum(forward[cell]) + sum(backward[cell]) for cell in cells],
    )
    return simulate("gpipe", times, micro_batches).makespan_s


def activations(network: Network, batch: int) -> dict[str, float]:
    """Print peak activations of a ResNet-50, all micro-batches waiting as on the first stage."""
    module = network.build().train()
    images = torch.zeros((1, network.size, network.size, 3), dtype=torch.uint8)
    chain = split(module, images.expand(2, -1, -1, -1))
    meter = MemoryMeter(chain, images)
    alive, blocks = 16, len(chain)
    modes: dict[str, Recompute] = {
        "16 micro-batches, nothing computed again": "never",
        "stage computed again": "always",
        "block by block": "blocks",
    }
    peaks = {"naive": meter.stage(0, blocks, batch).peak} | {
        name: meter.activations(0, blocks, batch // alive, mode, alive)
        for name, mode in modes.items()
    }
    print(f"\npeak activations of {network.model} at {network.size} px, batch {batch}, one stage")
    for name, peak in peaks.items():
        print(f"{name:42} {peak / GIB:8.3f} GiB  {peaks['naive'] / peak:6.1f} x smaller")
    ratios = {f"activations, naive / {name}": peaks["naive"] / peak for name, peak in peaks.items()}
    return {f"activations, {name}, GiB": peak / GIB for name, peak in peaks.items()} | ratios


def largest(shape: Shape, memory: int) -> dict[str, float]:
    """Print the deepest transformer that K devices hold."""
    chain, batch = chain_of(language_model(shape)), words_of(shape)
    meter = MemoryMeter(chain, batch.inputs, loss=_loss)
    family = find_family(measure_budget(meter, PER_PARAMETER))
    assert family is not None
    sizes = dict(_sizes(family, shape.batch, memory))
    naive = sizes["naive"]
    print(
        f"\nlargest transformer of width {shape.width} and {shape.tokens} tokens on devices of "
        f"{memory / GIB:g} GiB, {PER_PARAMETER.total:g} bytes a parameter\n"
        "(AmoebaNet-D on 8 GB: naive 82 M, K=1 318 M = 3.9 x, K=8 1.8 B = 22 x in the paper)"
    )
    for name, parameters in sizes.items():
        print(f"{name:34} {parameters / 1e6:9.1f} M  {parameters / naive:6.1f} x naive")
    return {f"largest network, {name} / naive": value / naive for name, value in sizes.items()} | {
        f"largest network, {name}, M": value / 1e6 for name, value in sizes.items()
    }


def _sizes(family: Family, batch: int, memory: int) -> Iterator[tuple[str, int]]:
    def most(stages: int, tried: Iterable[int], recompute: Recompute, kind: Schedule) -> int:
        depths = Depths(family, memory, batch=batch, schedule=kind)
        found = [
            depths.most(stages=stages, micro_batches=m, recompute=recompute)
            for m in tried
            if m >= stages
        ]
        return family.parameters(max((repeats or 0 for repeats in found), default=0))

    some = [m for m in (1, 2, 4, 8, 16, 32, 64) if m <= batch]
    yield "naive", most(1, (1,), "never", "gpipe")
    for stages in (1, 2, 4, 8):
        yield f"K={stages}", most(stages, some, "always", "gpipe")
    yield "K=8, block by block", most(8, some, "blocks", "gpipe")
    yield "K=8 1f1b without recomputation", most(8, some, "never", "1f1b")


def _loss(logits: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits (N, V, T), computed on rows as they lie in memory."""
    rows = logits.transpose(1, 2).flatten(0, 1)
    return cross_entropy(rows, torch.zeros(len(rows), dtype=torch.int64))


if __name__ == "__main__":
    main()
