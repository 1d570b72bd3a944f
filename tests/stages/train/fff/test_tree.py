"""Trees: which nodes a token reaches."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.train.fff.tree import nodes_of, reached, roots


def test_a_tree_has_a_node_more_on_each_level_than_all_levels_above_it():
    assert [nodes_of(depth) for depth in range(5)] == [1, 3, 7, 15, 31]
    assert roots(3, 2, torch.device("cpu")).tolist() == [0, 7, 14]


@given(st.integers(0, 5), st.integers(1, 3), st.randoms())
def test_the_shares_of_each_level_are_all_tokens(depth, trees, random):
    shape = (4, trees, nodes_of(depth))
    to_right = torch.rand(shape, generator=torch.Generator().manual_seed(random.randrange(99)))
    share = reached(to_right, depth)
    for level in range(depth + 1):
        first = 2**level - 1
        total = share[..., first : 2 * first + 1].sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))


def test_a_node_reaches_its_children_by_what_it_sends_them():
    to_right = torch.tensor([0.25, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert reached(to_right, 2).tolist() == [1, 0.75, 0.25, 0.375, 0.375, 0, 0.25]
