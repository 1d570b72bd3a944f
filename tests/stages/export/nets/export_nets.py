"""Networks that tests build by dotted path, as the export stage does."""

from __future__ import annotations

import torch
from torch import nn

from stages.train.fff.layer import FFF


class Normalized(nn.Module):
    """A net behind the chain's input: uint8 NHWC, normalized inside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net((images.float().permute(0, 3, 1, 2) - 77.0) / 82.0)


class Loud(Normalized):
    """The same answers by way of values that FP16 cannot hold."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.leaky_relu(super().forward(images) * 6e4, 1.0) / 6e4


class Laboured(Normalized):
    """The same answers, late: each time is made to wait for the one before."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer = super().forward(images.float())
        for _ in range(5):
            answer = super().forward(images.float() + 1e-6 * answer.mean())
        return answer


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.two(torch.relu(self.one(x))))


class Attention(nn.Module):
    """One transformer block over 16 patches, and a head."""

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, width, 4, 4)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)  # (N, T, C)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + torch.softmax(q @ k.transpose(1, 2) / 6.0, dim=-1) @ v
        x = x + self.mlp(self.norm(x))
        return self.head(x.mean(1))


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(images[:, :10, :10, 0].float() * self.weight)


class Branching(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float().mean((1, 2))
        return x if x.sum() > 0 else -x


class Frozen(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().reshape(2, -1)[:, :10]


def conv_net(channels: int = 1, classes: int = 10, width: int = 16) -> nn.Module:
    return Normalized(
        nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            Residual(width), nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
        )
    )  # fmt: skip


def loud_net() -> nn.Module:
    return Loud(conv_net().net)


def laboured_net() -> nn.Module:
    return Laboured(conv_net().net)


def attention_net(channels: int = 1, classes: int = 10) -> nn.Module:
    return Normalized(Attention(channels, classes))


def fast_net() -> nn.Module:
    """Two fast layers, so deep that no plain form comes near to the operator's speed."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 64), FFF(64, 64, depth=6), FFF(64, 64, depth=6),
        nn.Linear(64, 10),
    )  # fmt: skip
    return Normalized(net)


def unsupported_net() -> nn.Module:
    return Unsupported()


def not_a_module() -> int:
    return 3
