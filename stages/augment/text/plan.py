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
from stages.augment.text.operations import MaskTokens, TextOperation

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
    values, stays = np.concatenate(rows), np.concatenate(marks)  # all texts one behind the other
    text = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    streams = np.random.default_rng(list(key)).spawn(len(plan.operations))
    for operation, rng in zip(plan.operations, streams, strict=True):
        own = ~stays if mask is None else ~stays & (values != mask)
        hit = _drawn(own, ~stays, text, operation.share, rng)
        if isinstance(operation, MaskTokens) and mask is not None:
            values = np.where(hit, np.int32(mask), values)
        else:
            values, stays, text = values[~hit], stays[~hit], text[~hit]
    ends = np.searchsorted(text, np.arange(1, len(rows)))
    return np.split(values, ends)


def _drawn(
    own: NDArray[np.bool_],
    movable: NDArray[np.bool_],
    text: NDArray[np.int64],
    share: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Draw the tokens that an operation takes; one at least of each text's own is left.

    Args:
        own: for each token of all texts, whether it says something.
        movable: whether it may be taken.
        text: the number of its text.
        share: of the movable ones.
        rng: to draw from.
    """
    chance = rng.random(len(own))
    hit: NDArray[np.bool_] = (chance < share) & movable
    spare = np.where(_in_texts(own, text)[text], own, movable)
    robbed = _in_texts(hit, text) & ~_in_texts(spare & ~hit, text)
    for number in np.flatnonzero(robbed):
        candidates = np.flatnonzero(spare & (text == number))
        hit[candidates[chance[candidates].argmax()]] = False
    return hit


def _in_texts(tokens: NDArray[np.bool_], text: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell for each text whether any of its tokens is one of these."""
    found: NDArray[np.bool_] = np.bincount(text, weights=tokens) > 0
    return found


def padded(rows: Sequence[Row], tokens: Tokens) -> NDArray[np.int32]:
    """Return rows as one array (N, L), filled up at their ends."""
    longest = max((len(row) for row in rows), default=1)
    length = min(-(-longest // _MULTIPLE) * _MULTIPLE, tokens.length)
    whole = np.full((len(rows), length), tokens.padding, dtype=np.int32)
    for i, row in enumerate(rows):
        whole[i, : len(row)] = row
    return whole
