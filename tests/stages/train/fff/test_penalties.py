"""Penalties: how uneven and how uncertain nodes are."""

from __future__ import annotations

import threading

import pytest
import torch

from stages.train.fff.penalties import (
    add_penalty,
    collected_penalties,
    imbalance,
    uncertainty,
)


def test_nodes_that_send_tokens_both_ways_are_balanced_and_others_are_not():
    path = torch.zeros(8, 1, 2, dtype=torch.int64)
    even = torch.tensor([9.0, -9.0] * 4).view(8, 1, 1).repeat(1, 1, 2)
    assert float(imbalance(even, path, 3)) == pytest.approx(0, abs=1e-6)
    assert float(imbalance(even.abs(), path, 3)) == pytest.approx(1, abs=1e-3)


def test_a_tree_of_one_node_has_nothing_to_balance_or_to_decide():
    logits = torch.randn(5, 2, 1, requires_grad=True)
    path = torch.tensor([0, 1]).view(1, 2, 1).repeat(5, 1, 1)
    assert imbalance(logits, path, 2).item() == 0
    assert uncertainty(logits, torch.ones_like(logits), 0).item() == 0


def test_a_decision_is_as_uncertain_as_a_coin_at_zero_and_certain_far_from_it():
    share = torch.tensor([1.0, 0.5, 0.5]).repeat(4, 1, 1)
    assert float(uncertainty(torch.zeros(4, 1, 3), share, 1)) == pytest.approx(1)
    assert float(uncertainty(torch.full((4, 1, 3), 50.0), share, 1)) == pytest.approx(0, abs=1e-6)


def test_terms_go_to_the_innermost_collector_of_their_thread():
    term = torch.ones((), requires_grad=True)
    with collected_penalties() as outer:
        with collected_penalties() as inner:
            add_penalty(term)
        other = threading.Thread(target=add_penalty, args=(term,))
        other.start()
        other.join()
        with torch.no_grad():
            add_penalty(term)
    add_penalty(term)
    assert (len(outer.terms), len(inner.terms)) == (0, 1)
    assert inner.added_to(torch.tensor(2.0), 0.5).item() == 2.5
