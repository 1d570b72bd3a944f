"""Sizes: numbers taken from shapes, which cross a cut as the shape of an empty tensor.

    height, width = x.shape[2:]   ...cut...   x.reshape(-1, height, width, channels)

Only tensors cross a cut. A tensor of shape (0, height, width) holds no byte and says both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

Size = int | tuple[int, ...]


def is_size(value: object) -> bool:
    """Return whether a value is a number or a tuple of numbers, as shapes give them."""
    if isinstance(value, tuple):
        return all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    return isinstance(value, int) and not isinstance(value, bool)


def packed(like: torch.Tensor, *sizes: Size) -> torch.Tensor:
    """Return the empty tensor that carries sizes over a cut; it lies where `like` lies."""
    numbers = [n for size in sizes for n in (size if isinstance(size, tuple) else (size,))]
    return like.new_empty((0, *numbers), dtype=torch.uint8)


def unpacked(carrier: torch.Tensor, start: int, stop: int | None) -> Size:
    """Return the number at `start`, or all from there to `stop`."""
    numbers = carrier.shape[1:]
    return numbers[start] if stop is None else numbers[start:stop]


def pack(graph: fx.Graph, like: fx.Node, sizes: Sequence[fx.Node]) -> fx.Node:
    """Add the carrier of some sizes to the end of a segment."""
    return graph.call_function(packed, (like, *sizes))


def unpack(graph: fx.Graph, sizes: dict[fx.Node, int | None]) -> dict[fx.Node, fx.Node]:
    """Add the reading of sizes to the begin of a segment; the lengths of tuples are given."""
    carrier = graph.placeholder("sizes")
    nodes: dict[fx.Node, fx.Node] = {}
    start = 0
    for size, length in sizes.items():
        stop = None if length is None else start + length
        nodes[size] = graph.call_function(unpacked, (carrier, start, stop))
        start += 1 if length is None else length
    return nodes
