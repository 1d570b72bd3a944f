"""A small vision transformer as a trained one, its double with fast layers, and what both take."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from stages.train.fff.config import FffConfig
from stages.train.fff.samples import Samples
from stages.train.models.factory import build_model

OPTIONS = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
VIT = {"model": "vit_tiny_patch16_224", "model_options": OPTIONS}
FFF = FffConfig.model_validate({"depth": 2, "trees": 8, "dense_width": 8})


def networks(fff: FffConfig = FFF, **options: float):
    torch.manual_seed(0)
    sizes = {"classes": 3, "height": 8, "width": 8, "channels": 1, "mean": [0.5], "std": [0.5]}
    options = {**OPTIONS, **options}
    dense = build_model("vit_tiny_patch16_224", **sizes, **options)
    nn.init.normal_(dense.body.head.weight)  # sure of its answers, as trained ones are
    return dense, build_model("vit_tiny_patch16_224", **sizes, fff=fff.model_dump(), **options)


def images(seed: int, batches: int = 4) -> Iterator[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        yield torch.randint(0, 256, (32, 8, 8, 1), dtype=torch.uint8, generator=draw)


def samples() -> Samples:
    return Samples(train=lambda: images(0, 8), held_back=list(images(1)))
