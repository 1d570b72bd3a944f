"""Networks: what is trained and served in the benchmarks, with random weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from stages.train.models.classifier import ImageClassifier
from stages.train.models.factory import build_model

CLASSES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network and the images it takes."""

    title: str
    model: str
    """timm's name, or ``package.module:function``."""
    size: int

    @property
    def arguments(self) -> dict[str, str | int | float | bool | tuple[float, ...] | None]:
        """Return the arguments of `stages.train.models.factory.build_model`."""
        return {
            "name": self.model, "classes": CLASSES, "height": self.size, "width": self.size,
            "channels": len(MEAN), "mean": MEAN, "std": STD,
        }  # fmt: skip

    def build(self) -> ImageClassifier:
        """Return the network, each time with the same weights."""
        torch.manual_seed(0)
        return build_model(
            self.model, classes=CLASSES, height=self.size, width=self.size, channels=len(MEAN),
            mean=MEAN, std=STD,
        )  # fmt: skip


def resnet18(size: int) -> Network:
    """Return timm's ResNet-18 for square images."""
    return Network(title=f"resnet18 at {size}x{size}", model="resnet18", size=size)


SMALL_CNN = Network(
    title="small CNN at 28x28", model="stages.train.models.small:small_resnet", size=28
)
TINY_MLP = Network(title="tiny MLP at 16x16", model="benchmarks.networks:tiny_mlp", size=16)


def tiny_mlp(classes: int, height: int, width: int, channels: int) -> nn.Module:
    """Build 64 hidden units: so little to compute that a step is nearly all overhead."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(height * width * channels, 64), nn.ReLU(), nn.Linear(64, classes)
    )
