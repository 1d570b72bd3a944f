"""The partition, against all partitions that there are."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from stages.train.gpipe.partition import cut_at, partition

COSTS = st.lists(st.integers(0, 20).map(float), min_size=1, max_size=8)


def every(blocks, stages):
    for cuts in combinations(range(1, blocks), stages - 1):
        yield (0, *cuts, blocks)


def costs_of(bounds, costs, links):
    borders = [0, *(links or [0] * (len(costs) - 1)), 0]
    return [borders[a] + sum(costs[a:b]) + borders[b] for a, b in pairwise(bounds)]


def rank(bounds, costs, links):
    shares = costs_of(bounds, costs, links)
    return max(shares), sum(share**2 for share in shares)


@given(COSTS, st.data())
def test_no_partition_is_better_than_the_one_found(costs, data):
    stages = data.draw(st.integers(1, len(costs)))
    link = st.lists(st.integers(0, 9).map(float), min_size=len(costs) - 1, max_size=len(costs) - 1)
    links = data.draw(st.one_of(st.just([]), link))
    found = partition(costs, stages, links=links)
    best = min(rank(bounds, costs, links) for bounds in every(len(costs), stages))
    assert found in set(every(len(costs), stages)), "a stage is empty or a block is lost"
    assert rank(found, costs, links) == best


@given(COSTS, st.data())
def test_a_cap_on_memory_holds_on_every_stage_or_nothing_is_found(costs, data):
    stages = data.draw(st.integers(1, len(costs)))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=len(costs), max_size=len(costs)))
    caps = data.draw(st.lists(st.integers(1, 30), min_size=stages, max_size=stages))

    def fits(stage, start, stop):
        return sum(sizes[start:stop]) <= caps[stage]

    allowed = [
        bounds
        for bounds in every(len(costs), stages)
        if all(fits(k, a, b) for k, (a, b) in enumerate(pairwise(bounds)))
    ]
    found = partition(costs, stages, fits=fits)
    if not allowed:
        assert found is None
    else:
        assert found in allowed
        assert rank(found, costs, []) == min(rank(bounds, costs, []) for bounds in allowed)


@given(COSTS, st.data())
def test_named_cuts_are_where_stages_begin(costs, data):
    names = [f"block{i}" for i in range(len(costs))]
    cuts = data.draw(st.sets(st.sampled_from(names[1:])) if names[1:] else st.just(set()))
    bounds = cut_at(names, sorted(cuts, key=names.index))
    assert [names[start] for start in bounds[1:-1]] == sorted(cuts, key=names.index)


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (["layr2"], r"cuts: 'layr2' is no block.*Allowed: layer1, layer2.*Did you mean 'layer2'"),
        (["stem"], r"'stem' is block 0 and would begin a stage after one that begins at block 0"),
        (["layer2", "layer1"], "'layer1' is block 1 and would begin.*Reorder"),
        (["layer1", "layer1"], "'layer1' is block 1.*Reorder or remove"),
    ],
)
def test_cuts_that_cannot_be_are_told_with_what_can(cuts, message):
    with pytest.raises(ConfigError, match=message):
        cut_at(["stem", "layer1", "layer2"], cuts)
