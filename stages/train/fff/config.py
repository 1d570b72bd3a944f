"""What the YAML may say about fast feedforward layers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.stage import StageConfig
from stages.train.finetune_config import Pattern

Form = Literal["auto", "gathered", "masked"]
MOST_NEURONS = 2**20


class ConvertConfig(StageConfig):
    """Fast layers learn what a trained network's dense ones do, then the whole what it answers."""

    steps: int = Field(default=300, ge=1, le=1_000_000)
    """Batches to learn from."""
    lr: float = Field(default=2e-3, gt=0)
    """Peak learning rate of AdamW; falls to 0 along a cosine."""
    tokens: int = Field(default=2048, ge=1)
    """Tokens of a batch that each layer learns from."""
    end_to_end_steps: int = Field(default=200, ge=0, le=1_000_000)
    """Batches from which all weights learn afterwards to give the trained network's logits,
    frozen ones too; 0 turns it off."""
    end_to_end_lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate of AdamW there: it climbs for a tenth of the steps and falls to 0."""
    temperature: float = Field(default=2.0, gt=0)
    """Divides the logits of both networks before they are compared; a higher one gives unlikely
    classes more weight."""


class FffConfig(StageConfig):
    """Replaces feedforward layers by trees of neurons, of which a token visits one path."""

    layers: Literal["all"] | Annotated[list[Pattern], Field(min_length=1)] = "all"
    """Which feedforward layers, by name or pattern (``["blocks.[0-5].mlp"]``)."""
    depth: int = Field(default=5, ge=0, le=16)
    """Levels below the root: a tree has 2^(depth + 1) - 1 neurons, and depth + 1 of them work."""
    trees: int = Field(default=8, ge=1, le=1024)
    """Side by side; their outputs add up."""
    dense_width: int = Field(default=0, ge=0, le=65536)
    """Neurons that work for every token, beside the trees."""
    form: Form = "auto"
    """How training computes: rows of visited neurons ``gathered``, or all of them ``masked``."""
    balance: float = Field(default=0.0, ge=0, le=100)
    """Weight in the loss of nodes that send most tokens one way; 0.01 is a start."""
    hardening: float = Field(default=0.0, ge=0, le=100)
    """Above 0, training mixes all paths, with this weight in the loss of uncertain nodes."""
    convert: ConvertConfig | Literal[False] = False
    """With `pretrained`: fast layers start from what its dense layers do; ``{}`` takes the
    defaults. Training goes on from there, end to end."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        neurons = self.trees * (2 ** (self.depth + 1) - 1)
        if neurons > MOST_NEURONS:
            raise ValueError(
                f"depth {self.depth} and trees {self.trees} make {neurons:,} neurons a layer, and "
                f"at most {MOST_NEURONS:,} are allowed. Lower one of them."
            )
        if self.hardening and self.balance:
            raise ValueError(
                "balance: goes with hard paths, and hardening mixes them. Set one of them to 0."
            )
        if self.hardening and self.form == "gathered":
            raise ValueError(
                "form: 'gathered' visits one path, and hardening mixes all. Use form: auto."
            )
        return self
