"""Small chains of blocks, made by hand: what the tests of pipelines train, cut and measure."""

from __future__ import annotations

import torch
from torch import nn

from stages.train.gpipe.chain import Block, Chain

CLASSES, TOKENS, WORDS = 5, 6, 20


class Residual(nn.Module):
    """Convolution, batch norm, dropout, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(torch.relu(self.norm(self.conv(x))))


class Attention(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def conv_chain(depth: int = 4, channels: int = 8) -> Chain:
    """Return a stem, `depth` residual blocks and a head, for float images (N, 3, 8, 8)."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    stem = nn.Conv2d(3, channels, 3, padding=1)
    return _chain([stem, *(Residual(channels) for _ in range(depth)), head])


def transformer_chain(depth: int = 4, width: int = 16) -> Chain:
    """Return an embedding, `depth` attention blocks and a head, for tokens (N, 6)."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, WORDS))
    return _chain([nn.Embedding(WORDS, width), *(Attention(width) for _ in range(depth)), head])


def images_for(chain: Chain, batch: int) -> torch.Tensor:
    """Return a mini-batch that the chain takes."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(chain.blocks[0].module, nn.Embedding):
        return torch.randint(0, WORDS, (batch, TOKENS), generator=generator)
    return torch.randn((batch, 3, 8, 8), generator=generator)


def _chain(modules: list[nn.Module]) -> Chain:
    last = len(modules) - 1
    names = ["stem", *(f"blocks.{i}" for i in range(last - 1)), "head"]
    return Chain(tuple(Block(n, m.train()) for n, m in zip(names, modules, strict=True)))
