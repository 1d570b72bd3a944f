"""Language model: a small causal transformer as a chain of halves of blocks.

Shapes: N sequences, T tokens, D width, V words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from stages.augment.loader import Batch
from stages.train.gpipe.chain import Block, Chain


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How large the model is, and its mini-batch."""

    blocks: int = 8
    width: int = 192
    heads: int = 6
    tokens: int = 64
    words: int = 1024
    batch: int = 32


class Embedding(nn.Module):
    """Words and their positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.words, shape.width)
        self.places = nn.Parameter(0.02 * torch.randn(shape.tokens, shape.width))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Map (N, T) to (N, T, D)."""
        embedded: torch.Tensor = self.words(words) + self.places
        return embedded


class Attention(nn.Module):
    """The first half of a block: causal self-attention beside the residual connection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, T, D) to (N, T, D)."""
        n, t, d = x.shape
        qkv = self.qkv(self.norm(x)).view(n, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        result: torch.Tensor = x + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return result


class Perceptron(nn.Module):
    """The second half of a block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(shape.width), nn.Linear(shape.width, 4 * shape.width), nn.GELU(),
            nn.Linear(4 * shape.width, shape.width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, T, D) to (N, T, D)."""
        result: torch.Tensor = x + self.layers(x)
        return result


class Head(nn.Module):
    """Logits of the next word, words first, as a cross-entropy takes them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.words = nn.Linear(shape.width, shape.words)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, T, D) to (N, V, T)."""
        logits: torch.Tensor = self.words(self.norm(x))
        return logits.transpose(1, 2)


def language_model(shape: Shape) -> nn.Sequential:
    """Return the model, each time with the same weights."""
    torch.manual_seed(0)
    halves = [half(shape) for _ in range(shape.blocks) for half in (Attention, Perceptron)]
    return nn.Sequential(Embedding(shape), *halves, Head(shape)).train()


def chain_of(model: nn.Sequential) -> Chain:
    """Return its layers as blocks."""
    return Chain(tuple(Block(name, layer) for name, layer in model.named_children()))


def words_of(shape: Shape) -> Batch:
    """Return a mini-batch of random words, each time the same."""
    draw = torch.Generator().manual_seed(1)
    size = (shape.batch, shape.tokens)
    words, following = (torch.randint(shape.words, size, generator=draw) for _ in range(2))
    return Batch(words, following, torch.arange(shape.batch))
