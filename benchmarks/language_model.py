"""Language model: a small causal transformer as a chain of its layers.

Shapes: N sequences, T tokens, D width, V words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from stages.augment.loader import Batch
from stages.train.gpipe.chain import Block, Carry, Chain


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


class Project(nn.Module):
    """Queries, keys and values; the residual connection goes on beside them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.linear = nn.Linear(shape.width, 3 * shape.width)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (N, T, D) to itself and (N, T, 3 D)."""
        return x, self.linear(self.norm(x))


class Attend(nn.Module):
    """Causal self-attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads

    def forward(self, x: torch.Tensor, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (N, T, D) and (N, T, 3 D) to (N, T, D) twice."""
        n, t, d = x.shape
        q, k, v = qkv.view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return x, mixed.transpose(1, 2).reshape(n, t, d)


class Widen(nn.Module):
    """The first layer of the perceptron; the residual connection goes on beside it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(shape.width), nn.Linear(shape.width, 4 * shape.width), nn.GELU()
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (N, T, D) to itself and (N, T, 4 D)."""
        return x, self.layers(x)


class Join(nn.Module):
    """The last layer of an attention or perceptron, added to its residual connection."""

    def __init__(self, shape: Shape, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, shape.width)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Map (N, T, D) and (N, T, hidden) to (N, T, D)."""
        result: torch.Tensor = x + self.linear(hidden)
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


class Layers(nn.Sequential):
    """Layers one after the other, of which some take and return several tensors."""

    def forward(self, *carry: torch.Tensor) -> torch.Tensor | Carry:
        """Run all layers."""
        result: torch.Tensor | Carry = carry
        for layer in self:
            result = layer(*result) if isinstance(result, tuple) else layer(result)
        return result


def language_model(shape: Shape) -> Layers:
    """Return the model, each time with the same weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [Embedding(shape)]
    for _ in range(shape.blocks):
        layers += [Project(shape), Attend(shape), Join(shape, shape.width)]
        layers += [Widen(shape), Join(shape, 4 * shape.width)]
    return Layers(*layers, Head(shape)).train()


def chain_of(model: Layers) -> Chain:
    """Return its layers as blocks."""
    return Chain(tuple(Block(name, layer) for name, layer in model.named_children()))


def words_of(shape: Shape) -> Batch:
    """Return a mini-batch of random words, each time the same."""
    draw = torch.Generator().manual_seed(1)
    size = (shape.batch, shape.tokens)
    words, following = (torch.randint(shape.words, size, generator=draw) for _ in range(2))
    return Batch(words, following, torch.arange(shape.batch))
