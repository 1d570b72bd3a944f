"""What a batch of tokens needs at least from beyond a cache."""

from __future__ import annotations

import pytest

from benchmarks.feedforward.memory import bytes_beyond
from stages.train.fff.packed import Layout

LAYOUT = Layout(64, 64, 5, 1, "fp32", "gelu")
OF_TOKEN = 4 * (64 + 64)
TREE = LAYOUT.nodes * LAYOUT.record


def test_one_token_needs_the_neurons_on_its_path():
    assert bytes_beyond(0, 1, LAYOUT) == pytest.approx(6 * LAYOUT.record + OF_TOKEN)


def test_many_tokens_need_the_tree_once():
    assert bytes_beyond(0, 10_000, LAYOUT) == pytest.approx(TREE + 10_000 * OF_TOKEN)


def test_a_cache_that_holds_the_tree_leaves_the_tokens():
    assert bytes_beyond(TREE, 7, LAYOUT) == 7 * OF_TOKEN


def test_a_cache_saves_most_by_the_top_of_the_tree():
    saved = [
        bytes_beyond(nodes * LAYOUT.record, 1, LAYOUT) - bytes_beyond(TREE, 1, LAYOUT)
        for nodes in (1, 3, 7)
    ]
    assert saved == pytest.approx([5 * LAYOUT.record, 4 * LAYOUT.record, 3 * LAYOUT.record])
