"""Layout of slots: a place in shared memory for every carry, and gradient, of every micro-batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.train.gpipe.messages import Slots
from stages.train.gpipe.probe import Probed
from stages.train.gpipe.shared import Allocator, Place


def lay_slots(
    probed: Mapping[int, Probed], sizes: Sequence[int], bounds: Sequence[int]
) -> list[Slots]:
    """Return the slots of each stage.

    Args:
        probed: what a trial run showed, for each number of samples that a micro-batch may have.
        sizes: samples of each micro-batch.
        bounds: block numbers: 0, the cuts, and the end.
    """
    allocator = Allocator()
    carries: list[tuple[tuple[Place, ...], ...]] = []
    grads: list[tuple[tuple[Place | None, ...], ...]] = []
    for block in bounds[:-1]:
        layouts = [probed[size].carries[block] for size in sizes]
        carries.append(tuple(map(allocator.places, layouts)))
        grads.append(
            tuple(
                tuple(
                    allocator.place(layout)
                    if block > 0 and layout.dtype.is_floating_point
                    else None
                    for layout in of_one
                )
                for of_one in layouts
            )
        )
    carries.append(())
    grads.append(())
    return [
        Slots(allocator.num_bytes, carries[k], grads[k], carries[k + 1], grads[k + 1])
        for k in range(len(bounds) - 1)
    ]
