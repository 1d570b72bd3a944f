"""Traced blocks: a network that says nothing about its blocks, cut along what it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from stages.train.gpipe.chain import Block
from stages.train.gpipe.split.cuts import WIDEST, Cut, choose, places
from stages.train.gpipe.split.errors import CannotSplit, Obstacle
from stages.train.gpipe.split.flow import Flow, watch
from stages.train.gpipe.split.naming import names
from stages.train.gpipe.split.segments import build
from stages.train.gpipe.split.trace import Entry, trace


def traced_blocks(net: nn.Module, example: torch.Tensor) -> list[Block]:
    """Return the blocks of a network, named relative to it.

    Raises:
        CannotSplit: its forward cannot be traced, or there is no place for a cut.
    """
    entry = Entry(net)
    graph, obstacles = trace(entry)
    flow = watch(entry, graph, example)
    found = places(flow)
    cuts = choose(flow, found)
    if len(cuts) < 3 and len([step for step in flow.steps if step.state]) > 1:
        raise CannotSplit(type(net).__name__, _reason(flow, found, obstacles))
    modules = [build(entry, flow.steps, a, b) for a, b in pairwise(cuts)]
    return [
        Block(name, module) for name, module in zip(names(flow.steps, cuts), modules, strict=True)
    ]


def _reason(flow: Flow, found: Sequence[Cut], obstacles: Sequence[Obstacle]) -> str:
    """Return what stands in the way at most places."""
    if obstacles:
        return str(obstacles[-1])
    problems = [
        cut.problem or f"more than {WIDEST} tensors are needed at '{flow.steps[cut.before].node}'"
        for cut in found[2:-1]
    ]
    return Counter(problems).most_common(1)[0][0]
