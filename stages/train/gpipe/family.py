"""Family: a network as what repeats in it and what stands around, so that it can be grown.

    family = find_family(budget)        # stem | 12 x (attention, mlp) | head
    family.budget(48)                   # the same network, four times as deep

Blocks are alike when they take the same bytes in every respect; a deeper network is the sum of its
blocks, which is exact where a block takes the same wherever it stands.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from stages.train.gpipe.budget import BlockBudget, Budget

LONGEST_UNIT = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """All depths of one network."""

    before: tuple[BlockBudget, ...]
    unit: tuple[BlockBudget, ...]
    repeats: int
    """Of the network as it is."""
    after: tuple[BlockBudget, ...]

    def budget(self, repeats: int) -> Budget:
        """Return the network with another depth."""
        return Budget((*self.before, *self.unit * repeats, *self.after))

    def parameters(self, repeats: int) -> int:
        """Return how many numbers the network of that depth learns."""
        around = sum(block.parameters for block in (*self.before, *self.after))
        return around + repeats * sum(block.parameters for block in self.unit)

    def __str__(self) -> str:
        first, last = self.unit[0].name, self.unit[-1].name
        unit = f"'{first}'" if len(self.unit) == 1 else f"'{first}' to '{last}'"
        return f"{unit}, {self.repeats} times in this network"


def find_family(budget: Budget) -> Family | None:
    """Return the longest stretch of equal units, or None if nothing repeats."""
    marks = [astuple(block)[1:] for block in budget.blocks]  # all but the name
    best: tuple[int, int, int, int] | None = None  # blocks, -period, -start, repeats
    for period in range(1, min(LONGEST_UNIT, len(marks) // 2) + 1):
        start = 0
        while start + period < len(marks):
            stop = start + period
            while stop < len(marks) and marks[stop] == marks[stop - period]:
                stop += 1
            repeats = (stop - start) // period
            if repeats > 1:
                found = (repeats * period, -period, -start, repeats)
                best = max(best, found) if best else found
            start = max(start + 1, stop - period)
    if best is None:
        return None
    blocks, period, start, repeats = best[0], -best[1], -best[2], best[3]
    return Family(
        before=budget.blocks[:start],
        unit=budget.blocks[start : start + period],
        repeats=repeats,
        after=budget.blocks[start + blocks :],
    )
