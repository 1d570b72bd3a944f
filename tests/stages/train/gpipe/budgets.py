"""Blocks whose bytes are known, and chains of them."""

from __future__ import annotations

from stages.train.gpipe.budget import BlockBudget, Budget, Line


def block(weights=1, kept=1, boundary=0, name="b", leaving=None):
    leaving = boundary if leaving is None else leaving
    keeps = Line(boundary + leaving, kept + boundary + leaving)
    return BlockBudget(
        name=name, parameters=weights, weights=weights, inputs=Line(0, boundary),
        outputs=Line(0, leaving), kept=keeps, peak=Line(keeps.fixed, keeps.each + 1),
    )  # fmt: skip


def chain(blocks):
    """What leaves a block is what enters the next one."""
    entering = [boundary for _, _, boundary in blocks]
    return Budget(
        tuple(
            block(weights, kept, boundary, leaving=after)
            for (weights, kept, boundary), after in zip(blocks, [*entering[1:], 0], strict=True)
        )
    )
