"""encoder: a transformer that reads tokens both ways, as BERT does, and answers with one class.

model: stages.train.models.text:encoder
model_options: {width: 128, depth: 4, heads: 4}

Normalization stands before attention and feedforward layer (Xiong et al., 2020, "On Layer
Normalization in the Transformer Architecture"), which needs no long warm-up; the answer is read
from the mean over all tokens. Shapes: N texts, L tokens, D width.
"""

from __future__ import annotations

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import nn

_HIDDEN = -1e4
"""Added to the attention that filling gets: as good as minus infinity, and finite in FP16 and for a
row that is all filling."""


class EncoderBlock(nn.Module):
    """Attention, then a feedforward layer, each added to what came in."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, qkv_bias=True, proj_drop=drop)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, round(width * mlp_ratio), drop=drop)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Map (N, L, D) to (N, L, D).

        Args:
            x: the tokens.
            hidden: added to attention weights, (N, 1, 1, L).
        """
        x = x + self.attn(self.norm1(x), attn_mask=hidden.to(x.dtype))
        refined: torch.Tensor = self.mlp(self.norm2(x))
        return x + refined


class Encoder(nn.Module):
    """Tokens in, logits out."""

    def __init__(
        self,
        classes: int,
        vocabulary: int,
        length: int,
        padding: int,
        separator: int,
        parts: int = 1,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        drop: float = 0.1,
    ) -> None:
        """Build it with random weights; the first six are the data's.

        Args:
            classes: how many there are.
            vocabulary: how many tokens.
            length: most tokens of a text.
            padding: the token that texts are filled up with.
            separator: the token that ends each part of a text.
            parts: of a text.
            width: of a token.
            depth: blocks.
            heads: of attention; they share the width.
            mlp_ratio: neurons of a feedforward layer for each of the width.
            drop: share of values that training drops.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared by {heads} heads")
        self.padding, self.separator = padding, separator
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=padding)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.parts = nn.Embedding(parts, width) if parts > 1 else None
        self.drop = nn.Dropout(drop)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, mlp_ratio, drop) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for table in (self.tokens.weight, self.positions):
            nn.init.trunc_normal_(table, std=0.02)

    def get_classifier(self) -> nn.Linear:
        """Return the layer that fine-tuning makes anew, under timm's name for it."""
        return self.head

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map token numbers (N, L) to logits (N, classes)."""
        real = tokens != self.padding  # (N, L)
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]  # (N, L, D)
        if self.parts is not None:
            x = x + self.parts(self._part_of(tokens))
        x = self.drop(x)
        hidden = (~real).to(x.dtype)[:, None, None, :] * _HIDDEN
        for block in self.blocks:
            x = block(x, hidden)
        share = real.to(x.dtype)[:, :, None]
        mean = (self.norm(x) * share).sum(1) / share.sum(1).clamp(min=1)  # (N, D)
        logits: torch.Tensor = self.head(mean)
        return logits

    def _part_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return 0 for tokens up to the first separator, 1 after it: (N, L)."""
        ends = (tokens == self.separator).to(torch.int32)
        return (ends.cumsum(1, dtype=torch.int32) - ends).clamp(max=1)


encoder = Encoder
"""What a configuration names."""
