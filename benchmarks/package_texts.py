"""Package texts: one-line descriptions of this system's packages, learned by our step.

The sections with most packages, a number of texts of each in training, all held-out ones for the
measure. Without apt's lists there are none, and the benchmark says so.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import torch

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.device import CPU
from stages.augment.config import AugmentConfig
from stages.augment.loader import open_loader
from stages.augment.stage import Augment
from stages.train.config import TrainConfig
from stages.train.evaluate import evaluate
from stages.train.learner import build_learner
from stages.train.models.classifier import Classifier
from stages.train.models.names import ENCODER
from stages.train.models.text_factory import build_text_model
from stages.train.precision import FP32, Precision
from stages.train.quicken import quicken
from stages.train.reproducible import reproducible

_BATCH = 128


@cache
def data(batches: int) -> DataSpec:
    """Return so many batches of texts for training and for the measure, prepared once."""
    config = AugmentConfig.model_validate(
        {
            "dataset": "packages", "batch_size": _BATCH, "limit_batches": batches,
            "text": {"vocabulary": 8192, "length": 48},
        }
    )  # fmt: skip
    folder = Path(mkdtemp(prefix="package-texts."))
    atexit.register(rmtree, folder)
    return Augment(config).run(Context(dir=folder))


def encoder(spec: DataSpec, width: int, mlp_ratio: float, fff: dict[str, int] | None) -> Classifier:
    """Return an encoder of two blocks."""
    tokens = spec.tokens
    assert tokens is not None
    return build_text_model(
        ENCODER, classes=len(spec.classes), vocabulary=tokens.vocabulary, length=tokens.length,
        padding=tokens.padding, separator=tokens.separator, fff=fff, width=width, depth=2,
        mlp_ratio=mlp_ratio,
    )  # fmt: skip


def top1_of(spec: DataSpec, seed: int, epochs: int, build: Callable[[], Classifier]) -> float:
    """Train an encoder in bf16 from a seed and return its share of right answers, in fp32."""
    settings = {
        "model": ENCODER,
        "epochs": epochs,
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05},
        "schedule": {"name": "onecycle", "warmup_epochs": 0.15 * epochs},
        "ema": False,
    }
    config = TrainConfig.model_validate(settings)
    choice = Precision(name="bf16", reason="benchmark")
    with (
        reproducible(CPU, seed=seed, deterministic=True, threads=torch.get_num_threads()),
        closing(open_loader(spec, "train", seed=seed)) as train,
        closing(open_loader(spec, "eval")) as held_out,
    ):
        module = build()
        quicken(module)
        learner = build_learner(module, config, choice, CPU, len(train))
        for _ in range(epochs):
            for batch in train:
                learner.step(batch)
        return evaluate(module, held_out, FP32, Context(dir=Path())).top1
