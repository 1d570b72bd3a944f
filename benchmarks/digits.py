"""Digits: scikit-learn's 1,797 handwritten digits, learned by our step in a given precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from sklearn.datasets import load_digits

from pipeline.device import CPU
from stages.augment.loader import Batch
from stages.train.config import TrainConfig
from stages.train.learner import build_learner
from stages.train.models.classifier import ImageClassifier
from stages.train.models.factory import build_model
from stages.train.precision import Name, Precision
from stages.train.quicken import quicken
from stages.train.reproducible import reproducible

_BATCH = 64
_TRAIN = 1280
"""Of the digits; the rest is what accuracy is measured on."""


@cache
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 images (N, 8, 8, 1) and targets (N,), shuffled the same way each time."""
    images, targets = load_digits(return_X_y=True)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    pixels = torch.from_numpy(images * 15).to(torch.uint8).view(-1, 8, 8, 1)
    return pixels[order], torch.from_numpy(targets)[order]


SIZES = {"classes": 10, "height": 8, "width": 8, "channels": 1, "mean": (0.3,), "std": (0.35,)}
"""What a factory is told of the digits."""


def small_network() -> ImageClassifier:
    """Return a small ResNet for digits."""
    return build_model("stages.train.models.small:small_resnet", **SIZES, base=16)


def top1_of(
    precision: Name,
    seed: int,
    epochs: int,
    build: Callable[[], ImageClassifier] = small_network,
) -> float:
    """Train a small network from a seed and return its share of right answers, in fp32."""
    images, targets = _digits()
    steps = _TRAIN // _BATCH
    settings = {
        "epochs": epochs,
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "schedule": {"name": "onecycle", "warmup_epochs": 0.25 * epochs},
        "ema": False,
    }
    config = TrainConfig.model_validate(settings)
    choice = Precision(name=precision, reason="benchmark")
    with reproducible(CPU, seed=seed, deterministic=True, threads=torch.get_num_threads()):
        module = build()
        quicken(module)
        learner = build_learner(module, config, choice, CPU, steps)
        for _ in range(epochs):
            for index in torch.randperm(_TRAIN)[: steps * _BATCH].split(_BATCH):
                learner.step(Batch(inputs=images[index], targets=targets[index], index=index))
        module.eval()
        with torch.no_grad():
            answers = module(images[_TRAIN:]).argmax(1)
    return float((answers == targets[_TRAIN:]).float().mean())
