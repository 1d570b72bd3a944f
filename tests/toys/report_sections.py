"""Sections as the four stages write them, with every kind of block."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.report.blocks import (
    BarChart,
    Code,
    Facts,
    Gallery,
    LineChart,
    Matrix,
    Note,
    Picture,
    ScatterChart,
    Section,
    Series,
    Table,
)

DIGITS = tuple("0123456789")


def augment_section(folder: Path) -> Section:
    random = np.random.default_rng(0)
    for name in ("grid", "three"):
        shape = (260, 620, 3) if name == "grid" else (32, 32, 3)
        pixels = random.integers(
            0, 255, (shape[0] // 20 + 1, shape[1] // 20 + 1, 3), dtype=np.uint8
        )
        image = Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
        image.save(folder / f"{name}.png")
    counts = tuple(float(c) for c in random.integers(170, 184, 10))
    return Section(
        title="Data and augmentation",
        summary="1,797 handwritten digits in ten classes, split by a seeded, stratified draw.",
        blocks=(
            Facts(
                title="Data card",
                items=(
                    ("samples", 1797),
                    ("classes", 10),
                    ("size", "32 x 32 x 1"),
                    ("damaged", 0),
                    ("train", 1258),
                    ("eval", 359),
                    ("calibration", 180),
                    ("mean", 0.3053),
                    ("backend", "dali-cpu"),
                    ("loader alone", "21,400 img/s"),
                ),
            ),
            BarChart(
                title="Samples in each class",
                names=DIGITS,
                values=counts,
                caption="Even: no class weights.",
            ),
            Gallery(
                title="Augmented samples",
                pictures=(
                    Picture(
                        path="grid.png", caption="Eight augmented forms of one sample a class."
                    ),
                ),
            ),
            Gallery(
                title="Most confused",
                pictures=tuple(
                    Picture(path="three.png", caption=f"{i} taken for {i + 1}") for i in range(4)
                ),
            ),
        ),
    )


def train_section() -> Section:
    steps = tuple(float(step) for step in range(0, 880, 2))
    random = np.random.default_rng(1)
    loss = tuple(
        2.3 * math.exp(-step / 160) + 0.06 + 0.05 * float(random.random()) for step in steps
    )
    epochs = tuple(float(e) for e in range(1, 9))
    train = (0.71, 0.885, 0.93, 0.952, 0.966, 0.974, 0.979, 0.983)
    held_out = (0.64, 0.86, 0.918, 0.945, 0.9582, 0.969, 0.9721, 0.975)
    random_matrix = np.diag([36, 35, 36, 34, 36, 36, 35, 36, 33, 34])
    for i, j, n in ((1, 8, 1), (3, 5, 2), (8, 1, 2), (9, 7, 1), (6, 0, 1), (9, 3, 1)):
        random_matrix[i, j] = n
    return Section(
        title="Training",
        summary="resnet18 in bf16, eight epochs; the exponential average of the weights was kept.",
        blocks=(
            Note(
                text="AMP agrees with fp32 on the first batch: largest difference 0.4 %.",
                level="good",
            ),
            Facts(
                title="Result",
                items=(
                    ("top-1", 0.975),
                    ("epochs", 8),
                    ("img/s", 3912.4),
                    ("input stall", "3.1 %"),
                    ("parameters", 11_181_642),
                    ("time", "48.2 s"),
                ),
            ),
            LineChart(
                title="Loss",
                x_label="step",
                y_label="cross entropy (log scale)",
                log_y=True,
                series=(
                    Series(name="train", x=steps, y=loss),
                    Series(
                        name="eval",
                        x=tuple(110 * e for e in epochs),
                        y=(0.93, 0.42, 0.28, 0.19, 0.15, 0.12, 0.11, 0.105),
                    ),
                ),
            ),
            LineChart(
                title="Accuracy",
                x_label="epoch",
                y_label="top-1 (%)",
                caption="The target of 97 % was met in epoch 7.",
                series=(
                    Series(name="train", x=epochs, y=tuple(100 * v for v in train)),
                    Series(name="eval", x=epochs, y=tuple(100 * v for v in held_out)),
                    Series(
                        name="eval, averaged weights",
                        x=epochs,
                        y=tuple(100 * v + 0.3 for v in held_out),
                    ),
                ),
            ),
            Matrix(
                title="Confusion",
                row_label="true",
                column_label="predicted",
                names=DIGITS,
                values=tuple(tuple(int(v) for v in row) for row in random_matrix),
            ),
        ),
    )


def export_section() -> Section:
    rows = (
        ("onnxruntime-fp32", "onnxruntime", "fp32", 44.7, 0.975, 0.0, 1.0, 5.812, 6.4, 171.9, True),
        ("onnxruntime-fp16", "onnxruntime", "fp16", 22.4, 0.975, 0.0, 1.0, 8.21, 9.3, 121.5, False),
        (
            "onnxruntime-int8",
            "onnxruntime",
            "int8",
            11.3,
            0.9721,
            0.279,
            0.9944,
            2.104,
            2.5,
            475.1,
            True,
        ),
        (
            "tensorrt-rtx-int8",
            "tensorrt-rtx",
            "int8",
            11.9,
            None,
            None,
            None,
            None,
            None,
            None,
            True,
        ),
    )
    columns = (
        "variant",
        "backend",
        "precision",
        "size (MB)",
        "top-1",
        "drop (points)",
        "agreement",
        "p50 (ms)",
        "p99 (ms)",
        "img/s",
        "accepted",
    )
    return Section(
        title="Export",
        summary="Every precision on every backend, measured on the same 359 samples.",
        blocks=(
            Table(
                title="Precision by backend",
                columns=columns,
                rows=rows,
                highlight=(2,),
                caption="The chosen variant is set off. GPU engines were built and not run.",
            ),
            ScatterChart(
                title="Accuracy against latency",
                x_label="p50 latency (ms)",
                y_label="top-1 (%)",
                log_x=True,
                series=(
                    Series(
                        name="onnxruntime",
                        x=(5.812, 8.21, 2.104),
                        y=(97.5, 97.5, 97.21),
                        labels=("fp32", "fp16", "int8"),
                    ),
                    Series(name="openvino", x=(4.4, 1.9), y=(97.5, 97.3), labels=("fp32", "int8")),
                ),
            ),
            Note(
                text="tensorrt-rtx-fp16 was slower than its parent and was not chosen.",
                level="warning",
            ),
            Code(
                title="Fused layers", text="conv1 + relu  int8\nlayer1.0 + add  int8", folded=True
            ),
        ),
    )


def deploy_section() -> Section:
    users = (1.0, 2.0, 4.0, 8.0, 16.0)
    latency = LineChart(
        title="Latency",
        x_label="clients",
        y_label="ms",
        series=(
            Series(name="p50", x=users, y=(2.4, 3.1, 5.2, 9.9, 19.4)),
            Series(name="p95", x=users, y=(2.9, 4.0, 7.1, 13.0, 24.9)),
            Series(name="p99", x=users, y=(3.3, 4.9, 8.8, 15.2, 29.3)),
        ),
    )
    return Section(
        title="Serving",
        summary="Verified through a running Triton over HTTP and gRPC, sample by sample.",
        blocks=(
            latency,
            Code(
                title="Ask the server",
                language="python",
                text='client.infer("digits_pipeline", [image])',
            ),
        ),
    )
