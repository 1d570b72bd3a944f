"""Text operations: what training may do to a text, once it is a row of tokens.

Marks of the start, of the end and between two parts are never touched, and a text keeps at least
one token of its own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.augment.operations import Operation


class DropTokens(Operation):
    """Leave tokens out at random (word dropout; Iyyer et al., 2015, section 3.3)."""

    op: Literal["drop_tokens"] = "drop_tokens"
    share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Of the tokens of a text, each by its own chance."""


class MaskTokens(Operation):
    """Put the mask in place of tokens at random (Devlin et al., 2019, section 3.1)."""

    op: Literal["mask_tokens"] = "mask_tokens"
    share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Of the tokens of a text, each by its own chance."""


TextOperation = DropTokens | MaskTokens
