"""Depths: the most repeats that devices hold."""

from __future__ import annotations

from budgets import block, chain
from hypothesis import given
from hypothesis import strategies as st

from stages.train.gpipe.budget import add_up
from stages.train.gpipe.depth import Depths
from stages.train.gpipe.family import Family
from stages.train.gpipe.orders import most_alive

MODES = st.sampled_from(["never", "always", "blocks", "except_last"])
NUMBERS = st.integers(0, 9)
SHAPES = st.tuples(st.integers(1, 9), NUMBERS, st.integers(0, 3))
MOST = 40


@st.composite
def families(draw):
    """Chains in which what leaves a block enters the next one, at any depth."""
    before, unit, after = (draw(st.lists(SHAPES, min_size=n, max_size=3)) for n in (0, 1, 0))
    weights, kept, _ = draw(SHAPES)
    shapes = [*before, *unit, (weights, kept, unit[0][2]), *after]
    splits = [draw(st.tuples(NUMBERS, NUMBERS, NUMBERS)) for _ in shapes]
    blocks = chain(shapes, splits).blocks
    body = len(before) + len(unit)
    return Family(
        before=blocks[: len(before)], unit=blocks[len(before) : body], repeats=1,
        after=draw(st.sampled_from([blocks[body:], ()])),
    )  # fmt: skip


def brute(family, limit, *, batch, stages, micro_batches, schedule, recompute):
    size = -(-batch // micro_batches)
    alive = [most_alive(schedule, k, stages, micro_batches) for k in range(stages)]
    alive = alive if stages > 1 else [1]
    fitting = [
        repeats
        for repeats in range(1, MOST)
        if family.budget(repeats).fits(limit, size, recompute, alive, schedule)
    ]
    return max(fitting, default=None)


@given(
    families(), st.integers(1, 150), st.integers(1, 4), st.integers(0, 4),
    st.sampled_from(["gpipe", "1f1b", "zero_bubble"]), MODES,
)  # fmt: skip
def test_the_depth_is_the_largest_of_all_that_fit(family, limit, stages, more, schedule, recompute):
    asked = {"stages": stages, "micro_batches": stages + more, "recompute": recompute}
    found = Depths(family, limit, batch=12, schedule=schedule).most(**asked)
    expected = brute(family, limit, batch=12, schedule=schedule, **asked)
    assert found == expected or (expected == MOST - 1 and found >= expected)


def test_half_a_million_blocks_are_told_as_exactly_as_few():
    family = Family(before=(), unit=(block(4, kept=0), block(3, kept=0)), repeats=2, after=())
    depths = Depths(family, 1_000_000, batch=1)
    # Each stage needs a byte a sample to compute in.
    each = (1_000_000 - 1) // 7
    rest = 4 if (1_000_000 - 1) % 7 >= 4 else 0
    assert depths.most(stages=1, micro_batches=1, recompute="always") == each
    assert depths.most(stages=2, micro_batches=1, recompute="always") == 2 * each + (rest > 0)


SPLITS = st.tuples(NUMBERS, NUMBERS, NUMBERS)
BLOCKS = st.builds(block, NUMBERS, NUMBERS, st.integers(0, 3), split=SPLITS)


@given(st.lists(BLOCKS, max_size=9), st.data())
def test_what_neighbours_take_adds_up_in_any_grouping(blocks, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(blocks)), min_size=2, max_size=2)))
    a, b, c = (
        add_up(blocks[start:stop], 3)
        for start, stop in zip([0, *cuts], [*cuts, len(blocks)], strict=True)
    )
    assert a.then(b).then(c) == a.then(b.then(c)) == add_up(blocks, 3)
