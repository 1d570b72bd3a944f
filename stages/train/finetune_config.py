"""What the YAML may say about starting from weights that somebody trained before."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.stage import StageConfig

Pattern = Annotated[str, Field(min_length=1)]


class FreezeUntil(StageConfig):
    """Freezes the front of a network."""

    until: str = Field(min_length=1)
    """The first layer that learns, by its name in the network, for instance ``layer3``."""


Freeze = (
    Literal[False, "all_but_head"] | Annotated[list[Pattern], Field(min_length=1)] | FreezeUntil
)
