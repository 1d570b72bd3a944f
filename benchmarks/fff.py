"""FFF: one path through a tree of 4095 neurons, against the dense layer that holds as many.

python -m benchmarks.fff

768 -> 4095 -> 768 with GELU, no biases, random weights, random tokens that change at each call.
The dense side is the best of PyTorch (MKL or oneDNN), numpy (OpenBLAS) and ONNX Runtime, at width
4095 and padded to 4096, since an odd width slows libraries down and would flatter the tree; width
3072, BERT's own, is measured too. Outputs are compared with float64 before anything is timed.
Memory alone is the time to read what such a batch needs from beyond the L2 cache: no kernel is
faster here. Cold: the weights are flushed from all caches before each token, code and token are
warm. Encoder: twelve layers of the size of BERT-base for 128 words, attention included, dense at
width 3072. Ratios are of CPU time, on one thread; where there are two cores, batches are timed with
two threads on every side too, and those ratios are of wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.feedforward.dense import Answer, dense_sides, torch_dense
from benchmarks.feedforward.encoder import WIDTH, WORDS, encoder_sides
from benchmarks.feedforward.memory import bytes_beyond, l2_bytes, open_reader
from benchmarks.feedforward.threads import threads
from benchmarks.machine import Watch, num_threads
from benchmarks.measure import Clock, Measured, Side, Turn, take_turns, timed
from stages.train.fff import cmm
from stages.train.fff.inference import PackedFFF
from stages.train.fff.layer import FFF
from stages.train.fff.packed import WEIGHTS, Weights

if TYPE_CHECKING:
    from stages.train.fff._native import Kernel

DEPTH, TOKENS = 11, 16384
KERNEL, MODULE = "cmm fp32, kernel alone", "cmm fp32, nn.Module"
TWO, MEMORY = ", 2 threads", ", memory alone"
TARGETS = {
    f"batch 1: {KERNEL} / best dense": 300.0,
    "batch 1: cmm fp32 / best dense": 150.0,
    f"cold: {KERNEL} / best dense": 120.0,
    "batch 128: cmm fp32 / best dense": 120.0,
    "batch 4096: cmm fp32 / best dense": 150.0,
    "batch 128: cmm bf16 / best dense bf16": 90.0,
    "batch 4096: cmm bf16 / best dense bf16": 90.0,
}
MOST = {"us a call takes beside the kernel": 3.0}
_TURN_S, _QUICK_TURN_S = 0.3, 0.02
_COLD_TOKENS = 32


def main() -> None:
    options = make_parser("fff", __doc__).parse_args()
    watch, rounds = Watch(), rounds_of(options)
    torch.manual_seed(0)
    depth, batches = (5, (1, 16)) if options.quick else (DEPTH, (1, 128, 4096))
    turn_s = _QUICK_TURN_S if options.quick else _TURN_S
    tokens = torch.randn(512 if options.quick else TOKENS, WIDTH)
    figures: dict[str, float] = {}
    with torch.no_grad(), threads(1):
        layer = FFF(WIDTH, WIDTH, depth, bias=False).eval()
        figures |= errors(layer, tokens[:512])
        packed = {weights: PackedFFF(layer, weights) for weights in WEIGHTS}
        dense = dense_of(2 ** (depth + 1))
        for batch in batches:
            figures |= measure_batch(batch, tokens, packed, dense, rounds, turn_s)
        if cmm.backend().startswith("native"):
            figures |= measure_cold(tokens, packed["fp32"], 2 ** (depth + 1), rounds)
        encoders = encoder_sides(1 if options.quick else 12, depth)
        texts = torch.randn(8, 1, WORDS, WIDTH)
        sides = [_side(name, run, texts, 1, turn_s) for name, run in encoders.items()]
        measured = take_turns(sides, unit="text", rounds=rounds)
    print_table("encoder", measured, "torch, dense")
    figures |= rates("encoder", measured)
    for name in encoders:
        library = name.split(",")[0]
        figures[f"encoder: {name} / {library}, dense"] = measured.ratio(
            name, f"{library}, dense", "cpu"
        )
    alone, called = (figures[f"batch 1: {name}, token/cpu-s"] for name in (KERNEL, "cmm fp32"))
    figures["us a call takes beside the kernel"] = 1e6 / called - 1e6 / alone
    notes = [
        f"1 thread if not said otherwise; cmm by {cmm.backend()}; rows of a token: {depth + 1} of "
        "each matrix"
    ]
    if options.quick:
        conclude("fff", watch, figures, {}, notes)
    else:
        conclude("fff", watch, figures, TARGETS, notes, at_most=MOST)


def dense_of(width: int) -> dict[str, Answer]:
    """Return the dense sides: as many neurons as the tree, one more, and BERT's."""
    sides: dict[str, Answer] = {}
    for neurons in (width - 1, width, width * 3 // 4):
        sides |= dense_sides(WIDTH, neurons)
    return sides | dense_sides(WIDTH, width, bf16=True)


def errors(layer: FFF, tokens: torch.Tensor) -> dict[str, float]:
    """Return the largest error of the kernel against the layer in float64; stop if it is wrong.

    A token whose logit rounds to the other side of 0 takes another way: one of 512 may.
    """
    want = layer.double()(tokens.double())
    layer.float()
    error = (PackedFFF(layer)(tokens).double() - want).abs().amax(1)
    wrong = int((error > 1e-4).sum())
    if wrong > 1:
        raise SystemExit(f"{wrong} of {len(tokens)} tokens differ from float64: nothing is timed")
    return {"largest error of a token": float(error.sort().values[-2])}


def measure_batch(
    batch: int,
    tokens: torch.Tensor,
    packed: Mapping[Weights, PackedFFF],
    dense: Mapping[str, Answer],
    rounds: int,
    turn_s: float,
) -> dict[str, float]:
    """Return speeds of all sides at one batch size, and how they compare."""
    fast: dict[str, Answer] = {
        f"cmm {weights}": cmm.open_run(layer.records, layer.b_out, layer.layout)
        for weights, layer in packed.items()
    }
    sides = [_side(name, run, tokens, batch, turn_s) for name, run in {**dense, **fast}.items()]
    if batch == 1:
        sides.append(_side(MODULE, packed["fp32"], tokens, batch, turn_s))
        if cmm.backend().startswith("native"):
            sides.append(Side(KERNEL, timed(partial(_kernel_alone, packed["fp32"], tokens))))
    else:
        if num_threads() > 1:
            sides += [Side(f"{side.name}{TWO}", partial(_in_two, side)) for side in sides]
        cache = l2_bytes()
        for weights, layer in packed.items() if cache else ():
            read = open_reader(bytes_beyond(cache, batch, layer.layout), layer.records.nbytes)
            sides.append(_side(f"cmm {weights}{MEMORY}", read, tokens, batch, turn_s))
    measured = take_turns(sides, unit="token", rounds=rounds)
    title = f"batch {batch}"
    print_table(title, measured, "cmm fp32")
    figures = rates(title, measured)
    for side in sides:
        if side.name.startswith("cmm"):
            figures |= {f"{title}: {side.name} / {name}": value
                        for name, value in over_dense(measured, side.name).items()}  # fmt: skip
    return figures


def over_dense(measured: Measured, fast: str) -> dict[str, float]:
    """Return how a fast side compares to the best dense ones: fp32, bf16, of BERT's width.

    All of them on as many threads as it; on two, it is compared with itself on one too.
    """
    threaded = TWO if fast.endswith(TWO) else ""
    dense = [
        name.removesuffix(TWO)
        for name in measured.turns
        if not name.startswith("cmm") and name.endswith(TWO) == bool(threaded)
    ]
    narrowest = min((name.split()[-1] for name in dense), key=int)
    fp32 = [name for name in dense if "bf16" not in name]
    groups = {
        "best dense": [name for name in fp32 if not name.endswith(narrowest)],
        f"best dense {narrowest}": [name for name in fp32 if name.endswith(narrowest)],
        "best dense bf16": [name for name in dense if "bf16" in name],
    }
    clock: Clock = "wall" if threaded else "cpu"
    figures = {
        title: min(measured.ratio(fast, f"{name}{threaded}", clock) for name in names)
        for title, names in groups.items()
        if names
    }
    if threaded:
        figures["1 thread"] = measured.ratio(fast, fast.removesuffix(TWO), clock)
    return figures


def measure_cold(
    tokens: torch.Tensor, fast: PackedFFF, width: int, rounds: int
) -> dict[str, float]:
    """Return how the kernel compares at batch 1 when no weights are in the caches.

    All but the weights is warm: each side has just worked with seven neurons of others, without
    which the kernel would wait longer for its own instructions than for half of the weights.
    """
    from stages.train.fff import _native

    out = torch.empty(1, WIDTH)

    def alone(packed: PackedFFF) -> Answer:
        kernel = _kernel_of(packed)
        return lambda x: kernel.run(x.data_ptr(), WIDTH, out.data_ptr(), 1, 1)

    def turn(weights: Sequence[torch.Tensor], answer: Answer, wake: Answer) -> Turn:
        spent = cpu = 0.0
        for i in range(_COLD_TOKENS + 1):
            for tensor in weights:
                _native.flush(tensor.data_ptr(), tensor.nbytes)
            x = tokens[i : i + 1]
            wake(x)
            for _ in range(2):  # what reads the clocks was cold, too
                before, cpu_before = time.perf_counter(), time.process_time()
            answer(x)
            if i:  # the first after a pause waits for the machine to wake
                spent += time.perf_counter() - before
                cpu += time.process_time() - cpu_before
        return Turn(units=_COLD_TOKENS, wall_s=spent, cpu_s=cpu)

    small = PackedFFF(FFF(WIDTH, WIDTH, 2, bias=False).eval())
    sides = [Side(KERNEL, partial(turn, [fast.records], alone(fast), alone(small)))]
    wake = partial(torch_dense, torch.randn(7, WIDTH), torch.randn(WIDTH, 7))
    for neurons in (width - 1, width):
        weights = [torch.randn(neurons, WIDTH), torch.randn(WIDTH, neurons)]
        dense = partial(torch_dense, *weights)
        sides.append(Side(f"torch {neurons}", partial(turn, weights, dense, wake)))
    measured = take_turns(sides, unit="token", rounds=rounds)
    print_table("cold", measured, KERNEL)
    best = min(measured.ratio(KERNEL, side.name, "cpu") for side in sides[1:])
    return {**rates("cold", measured), f"cold: {KERNEL} / best dense": best}


def _side(
    name: str,
    answer: Callable[[torch.Tensor], object],
    tokens: torch.Tensor,
    batch: int,
    turn_s: float,
) -> Side:
    """A turn goes through other tokens at each call, for a while."""
    batches = list(tokens.split(batch) if tokens.dim() == 2 else tokens)
    at = 0

    def work() -> float:
        nonlocal at
        done, end = 0, time.process_time() + turn_s
        while not done or time.process_time() < end:
            for _ in range(max(1, 64 // batch) if done else 1):
                answer(batches[at])
                at = (at + 1) % len(batches)
                done += batch
        return done

    return Side(name, timed(work))


def _in_two(side: Side) -> Turn:
    with threads(2):
        return side.turn()


def _kernel_of(fast: PackedFFF) -> Kernel:
    isa = cmm.backend().partition(":")[2]
    return cmm.open_kernel(fast.records, fast.b_out, fast.layout, isa)


def _kernel_alone(fast: PackedFFF, tokens: torch.Tensor) -> float:
    """Send all tokens one at a time through the kernel, in one call from Python.

    Their outputs take the same place, as those of calls do that free them before the next.
    """
    out = torch.empty(1, fast.layout.out_features)
    _kernel_of(fast).run_each(tokens.data_ptr(), tokens.shape[1], out.data_ptr(), len(tokens))
    return len(tokens)


if __name__ == "__main__":
    main()
