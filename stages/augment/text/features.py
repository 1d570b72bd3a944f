"""TextFeatures: how a text becomes token numbers, the same in training and in serving.

    text -> Unicode and case made alike -> pieces of words -> numbers, at most `length` of them

The tokenizer is made from the training texts alone, or loaded; either way the ``tokenizer.json`` of
the `tokenizers` package holds all of it, and goes with the model into the server.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipeline.errors import choices, nearest
from pipeline.stage import StageConfig

ALGORITHMS = ("wordpiece", "bpe", "unigram")
TOKENIZER_FILE = "tokenizer.json"


class TextFeatures(StageConfig):
    """The tokens that stand for a text."""

    tokenizer: str = "wordpiece"
    """How one is made from the training texts: ``wordpiece`` (as BERT has it), ``bpe``,
    ``unigram``; or a ``tokenizer.json`` to load."""
    vocabulary: int = Field(default=8192, ge=64, le=1_000_000)
    """Most tokens that a tokenizer made here may have; a loaded one has its own."""
    length: int = Field(default=64, ge=4, le=8192)
    """Most tokens of a text, with those that mark its start and end; the rest is cut off. A batch
    is as long as its longest text."""
    lowercase: bool = True
    """Whether capitals and accents count for nothing; a loaded tokenizer knows this itself."""

    @property
    def is_loaded(self) -> bool:
        """Whether the tokenizer comes from a file."""
        return self.tokenizer not in ALGORITHMS

    @model_validator(mode="after")
    def _known_tokenizer(self) -> Self:
        if self.is_loaded and not self.tokenizer.endswith(".json"):
            raise ValueError(
                f"tokenizer: {self.tokenizer!r} is none. Allowed: {choices(ALGORITHMS)}, or the "
                f"path of a tokenizer.json.{nearest(self.tokenizer, ALGORITHMS)}"
            )
        return self
