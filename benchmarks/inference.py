"""Inference: images a second of the exported graphs, and of PyTorch, which one would use instead.

python -m benchmarks.inference

The graphs are the export stage's own: FP32, FP16 and INT8 for ONNX Runtime. Weights are random and
batch norm has seen the images, so that activations are spread as those of a trained network are.
Every side has one thread, as one instance of the server has; ratios are of CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.graphs import Graphs, make_graphs
from benchmarks.machine import Watch
from benchmarks.measure import Measured, Side, Turn, take_turns, timed
from benchmarks.networks import SMALL_CNN, resnet18
from pipeline.device import CPU
from stages.export.backends import Precision
from stages.export.backends.onnxruntime import open_session
from stages.export.parity import sqnr_db

Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

ORT: dict[Precision, str] = {"fp32": "ORT fp32", "fp16": "ORT fp16", "int8": "ORT int8"}
TORCH_FP32, TORCH_BF16 = "PyTorch fp32", "PyTorch bf16"
BATCHES = (1, 8)
TARGETS = {
    "batch 8: ORT int8 / ORT fp32": 3.0,
    "batch 8: ORT fp32 / PyTorch fp32": 1.0,
    "batch 8: ORT int8 / PyTorch bf16": 1.0,
}
RATIOS = (
    (ORT["int8"], ORT["fp32"]), (ORT["fp16"], ORT["fp32"]), (ORT["fp32"], TORCH_FP32),
    (ORT["int8"], TORCH_BF16), (TORCH_BF16, TORCH_FP32),
)  # fmt: skip
FLOOR_DB = {ORT["fp32"]: 60.0, ORT["fp16"]: 40.0, ORT["int8"]: 12.0, TORCH_BF16: 20.0}
"""Least signal-to-noise ratio of each side's logits against PyTorch's in fp32."""
THREADS = 1
_TURN_S = 0.5


def main() -> None:
    options = make_parser("inference", __doc__).parse_args()
    watch, rounds = Watch(), rounds_of(options)
    torch.set_num_threads(THREADS)
    network = SMALL_CNN if options.quick else resnet18(224)
    figures: dict[str, float] = {}
    with TemporaryDirectory(prefix="dlpipe-inference-") as scratch:
        graphs = make_graphs(Path(scratch), network, tuple(ORT), num_images=32)
        answers = open_answers(graphs)
        figures |= check_same_work(answers, graphs.images)
        for batch in BATCHES:
            images, seconds = graphs.images[:batch], 0.05 if options.quick else _TURN_S
            sides = [Side(name, _turn(answer, images, seconds)) for name, answer in answers.items()]
            measured = take_turns(sides, rounds=rounds, unit="img")
            print_table(f"{network.title}, batch {batch}", measured, ORT["fp32"])
            figures |= figures_of(f"batch {batch}", measured)
    conclude("inference", watch, figures, TARGETS, [f"{THREADS} thread"])


def open_answers(graphs: Graphs) -> dict[str, Answer]:
    """Open every side: one call takes uint8 images (N, H, W, C) and gives logits."""
    answers: dict[str, Answer] = {
        ORT[precision]: open_session(path, CPU, threads=THREADS)
        for precision, path in graphs.paths.items()
    }
    module = graphs.module.to(memory_format=torch.channels_last)

    def torch_answer(bf16: bool) -> Answer:
        def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits: NDArray[np.float32] = module(torch.from_numpy(images)).float().numpy()
            return logits

        return answer

    return {**answers, TORCH_FP32: torch_answer(bf16=False), TORCH_BF16: torch_answer(bf16=True)}


def check_same_work(answers: Mapping[str, Answer], images: NDArray[np.uint8]) -> dict[str, float]:
    """Compare every side's logits with PyTorch's in fp32, and return how near they are.

    Raises:
        AssertionError: a side answers something else.
    """
    right = answers[TORCH_FP32](images)
    found = {
        name: sqnr_db(right, answer(images))
        for name, answer in answers.items()
        if name != TORCH_FP32
    }
    for name, decibel in found.items():
        assert decibel >= FLOOR_DB[name], f"{name}: {decibel:.1f} dB against PyTorch's answers"
    return {f"{name}, dB": decibel for name, decibel in found.items()}


def figures_of(name: str, measured: Measured) -> dict[str, float]:
    """Return speeds and ratios by name."""
    figures = rates(name, measured)
    for side, other in RATIOS:
        figures[f"{name}: {side} / {other}"] = measured.ratio(side, other, "cpu")
    return figures


def _turn(answer: Answer, images: NDArray[np.uint8], seconds: float) -> Callable[[], Turn]:
    def work() -> float:
        done, end = 0, time.perf_counter() + seconds
        while done == 0 or time.perf_counter() < end:
            done += len(answer(images))
        return done

    def turn() -> Turn:
        answer(images)  # wakes threads and caches; not counted
        return timed(work)()

    return turn


if __name__ == "__main__":
    main()
