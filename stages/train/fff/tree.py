"""Tree: how neurons are numbered, and which of them a token visits.

A tree of depth d has d + 1 levels and 2^(d+1) - 1 nodes, each a neuron. They are numbered as in a
heap: the root is 0, and the children of node i are 2 i + 1 (left) and 2 i + 2 (right). A token goes
right where the logit of a node is greater than 0; at exactly 0, and at NaN, it goes left.

Shapes: N tokens, T trees, L levels, n nodes.
"""

from __future__ import annotations

import torch


def nodes_of(depth: int) -> int:
    """Return how many nodes a tree has."""
    return int(2 ** (depth + 1) - 1)


def roots(trees: int, depth: int, device: torch.device) -> torch.Tensor:
    """Return the numbers (T,) of the trees' roots, where all nodes lie one tree after the other."""
    return torch.arange(trees, device=device) * nodes_of(depth)


def reached(to_right: torch.Tensor, depth: int) -> torch.Tensor:
    """Return the share of tokens that reaches each node (N, T, n).

    Args:
        to_right: (N, T, n), the share that a node sends right: 0 or 1, or a probability between.
        depth: of the trees.
    """
    share = torch.ones_like(to_right[..., :1])  # (N, T, nodes of the level)
    levels = [share]
    for level in range(depth):
        first = 2**level - 1
        right = to_right[..., first : 2 * first + 1]
        share = torch.stack([share * (1 - right), share * right], dim=-1).flatten(-2)
        levels.append(share)
    return torch.cat(levels, dim=-1)
