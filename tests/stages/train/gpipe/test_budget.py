"""Budgets: what a chain takes, from blocks whose bytes are known."""

from __future__ import annotations

from budgets import block, chain
from hypothesis import given
from hypothesis import strategies as st

from stages.train.gpipe.budget import Budget
from stages.train.gpipe.family import find_family
from stages.train.gpipe.partition import partition

NUMBERS = st.integers(0, 9)


CHAINS = st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 3)), min_size=1, max_size=8).map(chain)
BUDGETS = st.lists(st.builds(block, NUMBERS, NUMBERS, st.integers(0, 3)), min_size=1, max_size=8)


@given(
    CHAINS,
    st.integers(1, 120),
    st.sampled_from(["never", "always", "blocks", "except_last"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=8).map(lambda a: sorted(a, reverse=True)),
)
def test_a_chain_fits_where_some_partition_of_it_does(budget, limit, recompute, alive):
    def fits(stage, start, stop):
        return budget.tally(start, stop, 2).total(recompute, alive[stage]) <= limit

    assert budget.fits(limit, 2, recompute, alive) == any(
        partition([1.0] * len(budget), stages, fits=fits) is not None
        for stages in range(1, min(len(alive), len(budget)) + 1)
    )


@given(BUDGETS, st.integers(1, 3), st.integers(2, 5))
def test_the_unit_that_repeats_is_found_and_the_same_depth_gives_the_same_network(
    around, period, repeats
):
    unit = [block(weights=100 + i, kept=3, name=f"unit{i}") for i in range(period)]
    budget = Budget((*around, *unit * repeats, *around))
    family = find_family(budget)
    assert family is not None
    assert len(family.unit) * family.repeats >= period * repeats
    assert family.budget(family.repeats) == budget
    deeper = family.budget(family.repeats + 2)
    assert len(deeper) == len(budget) + 2 * len(family.unit)


def test_a_network_without_repetition_has_no_family():
    assert find_family(Budget(tuple(block(weights=i) for i in range(5)))) is None
