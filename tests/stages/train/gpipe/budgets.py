"""Blocks whose bytes are known, and chains of them."""

from __future__ import annotations

from stages.train.gpipe.budget import BlockBudget, Budget, Line, SplitBudget


def block(weights=1, kept=1, boundary=0, name="b", leaving=None, split=(1, 0, 0)):
    """A block; `split` is what it takes more for its way back, leaves, and works with."""
    leaving = boundary if leaving is None else leaving
    keeps = Line(boundary + leaving, kept + boundary + leaving)
    return BlockBudget(
        name=name, parameters=weights, weights=weights, inputs=Line(0, boundary),
        outputs=Line(0, leaving), kept=keeps, peak=Line(keeps.fixed, keeps.each + 1),
        split=SplitBudget(
            peak=Line(keeps.fixed, keeps.each + split[0]), left=Line(0, split[1]),
            work=Line(split[2], 0),
        ),
    )  # fmt: skip


def chain(blocks, splits=()):
    """What leaves a block is what enters the next one."""
    splits = splits or [(1, 0, 0)] * len(blocks)
    entering = [boundary for _, _, boundary in blocks]
    return Budget(
        tuple(
            block(weights, kept, boundary, leaving=after, split=split)
            for (weights, kept, boundary), after, split in zip(
                blocks, [*entering[1:], 0], splits, strict=True
            )
        )
    )
