"""Usage of leaves: counted while watched, told in the report."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.report.blocks import LineChart, Table
from stages.train.fff.layer import FFF
from stages.train.fff.usage import usage_blocks, watched_leaves


def one_way() -> FFF:
    """Sends every token right at each node."""
    layer = FFF(3, 3, depth=2, trees=2)
    with torch.no_grad():
        layer.w_in.zero_()
        layer.b_in.fill_(1.0)
    return layer


def test_every_token_is_counted_once_in_every_tree():
    network = nn.Sequential(FFF(3, 3, depth=2, trees=2), FFF(3, 3, depth=0)).eval()
    with watched_leaves(network) as usage:
        network(torch.randn(10, 3))
        network(torch.randn(5, 2, 3))
        first, second = usage.layers()
    assert first.counts.shape == (2, 4)
    assert first.counts.sum(1).tolist() == [20, 20]
    assert second.counts.tolist() == [[20]]
    assert (second.entropy, second.dead) == (1.0, 0)


def test_a_tree_of_which_one_leaf_is_used_has_no_entropy_and_all_others_dead():
    network = nn.Sequential(one_way()).eval()
    with watched_leaves(network) as usage:
        network(torch.randn(8, 3))
        (found,) = usage.layers()
    assert found.entropy == pytest.approx(0)
    assert found.dead == 6
    assert found.counts[:, 3].tolist() == [8, 8]


def test_nothing_is_counted_when_nobody_watches():
    layer = one_way().eval()
    with watched_leaves(layer):
        pass
    layer(torch.randn(8, 3))
    assert layer.leaf_counts is None


def test_the_report_has_a_row_and_a_curve_for_each_layer():
    network = nn.Sequential(one_way(), one_way()).eval()
    with watched_leaves(network) as usage:
        network(torch.randn(8, 3))
        table, chart = usage_blocks(usage.layers())
    assert isinstance(table, Table)
    assert isinstance(chart, LineChart)
    assert table.rows[0][:4] == ("0", "6 of 14", 8, 6)
    assert [series.name for series in chart.series] == ["0", "1"]
    assert usage_blocks([]) == []
