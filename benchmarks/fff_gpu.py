"""FFF on a GPU: one path through a tree of 4095 neurons against the dense layer that holds as many.

python -m benchmarks.fff_gpu

768 -> 4095 -> 768 with GELU, no biases, random weights, random tokens that change at each call, all
on the GPU. The dense side is PyTorch (cuBLAS) in fp32, TF32 and fp16, at width 4095 and padded to
4096; ours is the Triton kernel, a program for each token below 512 tokens and grouped above.
Outputs are compared with float64 first. Without a CUDA device, --quick tries the same on tiny sizes
in Triton's interpreter, whose speed says nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import gelu, linear

from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.machine import Watch
from benchmarks.measure import Side, take_turns, timed
from stages.train.fff.inference import PackedFFF
from stages.train.fff.layer import FFF
from stages.train.fff.packed import Unpacked, unpack

WIDTH, DEPTH, TOKENS = 768, 11, 16384
CMM = "cmm fp32"
_TURN_S = 0.3
_WRONG = 1e-3

Answer = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    options = make_parser("fff_gpu", __doc__).parse_args()
    watch, rounds = Watch(), rounds_of(options)
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.quick:
        raise SystemExit("fff_gpu: needs a CUDA device; --quick tries it in Triton's interpreter")
    device = torch.device("cuda" if has_gpu else "cpu")
    torch.manual_seed(0)
    width, depth, batches = (16, 3, (1, 20)) if options.quick else (WIDTH, DEPTH, (1, 128, 4096))
    turn_s = 0.01 if options.quick else _TURN_S
    tokens = torch.randn(64 if options.quick else TOKENS, width, device=device)
    figures: dict[str, float] = {}
    with torch.no_grad():
        layer = FFF(width, width, depth, bias=False).eval().to(device)
        ours = kernel_of(layer)
        figures["largest error"] = checked(layer, ours, tokens[: 20 if options.quick else 512])
        dense = dense_sides(width, 2 ** (depth + 1), device)
        for batch in batches:
            sides = [
                _side(n, run, tokens, batch, turn_s) for n, run in {**dense, CMM: ours}.items()
            ]
            measured = take_turns(sides, unit="token", rounds=rounds)
            print_table(f"batch {batch}", measured, CMM)
            figures |= rates(f"batch {batch}", measured)
            for kind in ("fp32", "fp16"):
                names = [name for name in dense if kind in name]
                best = min(measured.ratio(CMM, name) for name in names)
                figures[f"batch {batch}: {CMM} / best dense {kind}"] = best
    where = torch.cuda.get_device_name() if has_gpu else "Triton's interpreter: no speeds"
    conclude("fff_gpu", watch, figures, {}, [where])


def kernel_of(layer: FFF) -> Answer:
    """Return a layer as the Triton kernel computes it."""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are defined
    from stages.train.fff import triton_kernel

    packed = PackedFFF(layer)
    found = unpack(packed.layout, packed.records)
    weights = Unpacked(found.w_in, found.w_out, found.bias)
    return lambda x: triton_kernel.walk(x, weights, packed.b_out, packed.layout)


def dense_sides(width: int, neurons: int, device: torch.device) -> dict[str, Answer]:
    """Return the dense sides: as many neurons as the tree and one more, by type."""
    sides: dict[str, Answer] = {}
    for count in (neurons - 1, neurons):
        for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
            w_in = torch.randn(count, width, device=device, dtype=dtype)
            w_out = torch.randn(width, count, device=device, dtype=dtype)
            sides[f"torch {name} {count}"] = partial(_dense, w_in, w_out, tf32=False)
            if device.type == "cuda" and dtype is torch.float32:
                sides[f"torch fp32 as TF32 {count}"] = partial(_dense, w_in, w_out, tf32=True)
    return sides


def _dense(w_in: torch.Tensor, w_out: torch.Tensor, x: torch.Tensor, *, tf32: bool) -> torch.Tensor:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return linear(gelu(linear(x.to(w_in.dtype), w_in)), w_out)


def checked(layer: FFF, ours: Answer, tokens: torch.Tensor) -> float:
    """Return the largest error of the kernel against float64; stop if it is wrong.

    A token whose logit rounds to the other side of 0 takes another way: one may.
    """
    got = ours(tokens).double()
    want = layer.double()(tokens.double())
    layer.float()
    error = (got - want).abs().amax(1).sort().values
    if error[-2] > _WRONG:
        raise SystemExit(
            f"fff_gpu: outputs differ from float64 by {error[-2]:.3g}: nothing is timed"
        )
    return float(error[-2])


def _side(name: str, answer: Answer, tokens: torch.Tensor, batch: int, turn_s: float) -> Side:
    """A turn goes through other tokens at each call, for a while, and waits for the GPU."""
    batches, at = tokens.split(batch), 0

    def work() -> float:
        nonlocal at
        done, end = 0, time.perf_counter() + turn_s
        while not done or time.perf_counter() < end:
            for _ in range(max(1, 256 // batch) if done and tokens.is_cuda else 1):
                answer(batches[at])
                at = (at + 1) % (len(tokens) // batch)
                done += batch
            if tokens.is_cuda:
                torch.cuda.synchronize()
        return done

    return Side(name, timed(work))


if __name__ == "__main__":
    main()
