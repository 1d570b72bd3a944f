"""Usage: how evenly the leaves of fast feedforward layers are used.

with watched_leaves(module) as usage:
    evaluate(module)
usage.layers()          # entropy, dead leaves and histogram of each layer
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.report.blocks import Block, LineChart, Series, Table
from stages.train.fff.layer import FFF, fast_layers

_MOST_CURVES = 12


@dataclass(frozen=True, slots=True)
class LeafUsage:
    """What one layer's leaves did."""

    name: str
    layer: FFF
    counts: torch.Tensor
    """(T, leaves), tokens that ended there."""

    @property
    def shares(self) -> torch.Tensor:
        """Return the share of tokens (T, leaves), 1 over the leaves of a tree."""
        return self.counts / self.counts.sum(1, keepdim=True).clamp(min=1)

    @property
    def entropy(self) -> float:
        """Mean over the trees, as a share of that of leaves used evenly; 1 for a single leaf."""
        if self.counts.shape[1] == 1:
            return 1.0
        entropies = torch.special.entr(self.shares.double()).sum(1)
        return float(entropies.mean() / torch.tensor(self.counts.shape[1]).log())

    @property
    def dead(self) -> int:
        """Leaves of all trees that no token reached."""
        return int((self.counts == 0).sum())


@dataclass(frozen=True, slots=True)
class Usage:
    """The fast layers of a network, by name."""

    fast: dict[str, FFF]

    def layers(self) -> list[LeafUsage]:
        """Return what was counted."""
        return [
            LeafUsage(name, layer, layer.leaf_counts)
            for name, layer in self.fast.items()
            if layer.leaf_counts is not None
        ]


@contextmanager
def watched_leaves(module: nn.Module) -> Iterator[Usage]:
    """Count which leaves tokens reach in here, in evaluation or in gathered form."""
    usage = Usage(fast_layers(module))
    for layer in usage.fast.values():
        shape = (layer.trees, 2**layer.depth)
        layer.leaf_counts = torch.zeros(shape, dtype=torch.int64, device=layer.w_in.device)
    try:
        yield usage
    finally:
        for layer in usage.fast.values():
            layer.leaf_counts = None


def usage_blocks(layers: list[LeafUsage]) -> list[Block]:
    """Return what the report says of the leaves; nothing if there are no fast layers."""
    if not layers:
        return []
    rows: tuple[tuple[str | int, ...], ...] = tuple(
        (
            each.name,
            f"{each.layer.active:,} of {len(each.layer.w_in):,}",
            each.counts.numel(),
            each.dead,
            f"{each.entropy:.1%}",
            f"{float(each.shares.max()):.1%}",
        )
        for each in layers
    )
    table = Table(
        title="Fast feedforward layers",
        columns=(
            "layer",
            "neurons at work",
            "leaves",
            "dead",
            "entropy",
            "busiest leaf",
        ),
        rows=rows,
        caption="Counted over the eval split. Entropy: of the tokens over the leaves of a tree, as "
        "a share of that of leaves used evenly. A dead leaf is reached by no token; "
        "fff.balance spreads them.",
    )
    curves = tuple(_curve(each) for each in layers[:_MOST_CURVES])
    chart = LineChart(
        title="Share of tokens by leaf, busiest first",
        x_label="leaf",
        y_label="share of tokens, mean of the trees",
        series=curves,
    )
    return [table, chart]


def _curve(usage: LeafUsage) -> Series:
    ordered = usage.shares.sort(dim=1, descending=True).values.mean(0).tolist()
    return Series(
        name=usage.name, x=tuple(float(i + 1) for i in range(len(ordered))), y=tuple(ordered)
    )
