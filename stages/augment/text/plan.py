"""TextPlan: a transform list for texts made ready to run.

As for images, random numbers are drawn from the batch's key alone: a loader's position is a few
integers. Shapes: N texts, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Tokens
from stages.augment.operations import Cutmix, Mixup, Operation
from stages.augment.text.operations import DropTokens, MaskTokens, TextOperation

Row = NDArray[np.int32]  # (tokens,)
_MULTIPLE = 8
"""Batches are padded to a multiple of this: matrix units like it, and there are fewer shapes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPlan:
    """What to do to each text."""

    tokenizer: Path
    tokens: Tokens
    operations: tuple[TextOperation, ...]
    mixing: tuple[Mixup | Cutmix, ...] = ()


def make_text_plan(tokenizer: Path, tokens: Tokens, operations: Sequence[Operation]) -> TextPlan:
    """Take what concerns texts from a transform list."""
    return TextPlan(
        tokenizer=tokenizer,
        tokens=tokens,
        operations=tuple(o for o in operations if isinstance(o, TextOperation)),
    )


def alter(
    rows: Sequence[Row],
    marks: Sequence[NDArray[np.bool_]],
    plan: TextPlan,
    mask: int | None,
    key: Sequence[int],
) -> list[Row]:
    """Run the operations on a batch.

    Args:
        rows: the tokens of each text.
        marks: for each token, whether it must stay.
        plan: what to do.
        mask: the token that hides others; None: `MaskTokens` leaves them out instead.
        key: names the batch, for instance (seed, epoch, rank, number).
    """
    altered, kept_marks = list(rows), list(marks)
    streams = np.random.default_rng(list(key)).spawn(len(plan.operations))
    for operation, rng in zip(plan.operations, streams, strict=True):
        for i, (row, stays) in enumerate(zip(altered, kept_marks, strict=True)):
            own = ~stays if mask is None else ~stays & (row != mask)
            hit = _drawn(own, ~stays, operation.share, rng)
            if isinstance(operation, MaskTokens) and mask is not None:
                altered[i] = np.where(hit, np.int32(mask), row)
            elif isinstance(operation, DropTokens | MaskTokens):
                altered[i], kept_marks[i] = row[~hit], stays[~hit]
    return altered


def _drawn(
    own: NDArray[np.bool_], movable: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw the tokens that an operation takes; one at least of the text's own is left."""
    chance = rng.random(len(own))
    hit: NDArray[np.bool_] = (chance < share) & movable
    spare = own if own.any() else movable
    if hit.any() and not (spare & ~hit).any():
        hit[np.flatnonzero(spare)[chance[spare].argmax()]] = False
    return hit


def padded(rows: Sequence[Row], tokens: Tokens) -> NDArray[np.int32]:
    """Return rows as one array (N, L), filled up at their ends."""
    longest = max((len(row) for row in rows), default=1)
    length = min(-(-longest // _MULTIPLE) * _MULTIPLE, tokens.length)
    whole = np.full((len(rows), length), tokens.padding, dtype=np.int32)
    for i, row in enumerate(rows):
        whole[i, : len(row)] = row
    return whole
