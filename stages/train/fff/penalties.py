"""Penalties: what layers ask to be added to the loss of the batch that they just saw.

with collected_penalties() as penalties:
    loss = objective(network(images), ...)
loss = penalties.added_to(loss)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn.functional import logsigmoid

_open = threading.local()


@dataclass
class Penalties:
    """What layers have asked for; each is a mean over tokens."""

    terms: list[torch.Tensor] = field(default_factory=list)

    def added_to(self, loss: torch.Tensor, share: float = 1.0) -> torch.Tensor:
        """Return the loss with all terms, of which `share` counts; itself if there are none."""
        for term in self.terms:
            loss = loss + share * term
        return loss


@contextmanager
def collected_penalties() -> Iterator[Penalties]:
    """Collect what the layers that run in here, on this thread, ask for."""
    before = getattr(_open, "penalties", None)
    _open.penalties = penalties = Penalties()
    try:
        yield penalties
    finally:
        _open.penalties = before


def add_penalty(term: torch.Tensor) -> None:
    """Ask for a term in the loss; nobody may be listening."""
    penalties: Penalties | None = getattr(_open, "penalties", None)
    if penalties is not None and torch.is_grad_enabled():
        penalties.terms.append(term)


def imbalance(logits: torch.Tensor, path: torch.Tensor, nodes: int) -> torch.Tensor:
    """Return how unevenly nodes send tokens left and right: 0 evenly, 1 all one way.

    Each inner node counts by its tokens, as the square of its mean of 2 sigmoid(logit) - 1.

    Args:
        logits: (N, T, L), along each token's path.
        path: (N, T, L), the numbers of those nodes.
        nodes: of all trees.
    """
    inner = path[..., :-1].flatten()
    if not len(inner):
        return logits.sum() * 0
    lean = 2 * torch.sigmoid(logits[..., :-1].flatten()) - 1
    counts = torch.bincount(inner, minlength=nodes).to(lean.dtype)
    sums = torch.zeros_like(counts).index_add(0, inner, lean)
    return (sums.square() / counts.clamp(min=1)).sum() / len(inner)


def uncertainty(logits: torch.Tensor, share: torch.Tensor, depth: int) -> torch.Tensor:
    """Return the mean entropy of the decisions of inner nodes, 0 to 1, by how many reach them.

    Args:
        logits: (N, T, n), of all nodes.
        share: (N, T, n), how probably they are reached.
        depth: of the trees.
    """
    inner = 2**depth - 1
    if not inner or not logits.numel():
        return logits.sum() * 0
    x, weight = logits[..., :inner], share[..., :inner]
    right = torch.sigmoid(x)
    entropy = -(right * logsigmoid(x) + (1 - right) * logsigmoid(-x)) / math.log(2)
    return (weight * entropy).sum() / (logits.shape[0] * logits.shape[1] * depth)
