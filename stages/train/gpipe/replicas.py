"""Replica: a stage on another device, kept equal to the network that stays at home.

    replica = Replica(blocks, device)
    replica.fetch()             # weights and statistics, before a step
    replica.hand_in()           # gradients and statistics, after it

Optimizer, average, checkpoint and evaluation so see one ordinary network on one device. What is
spread is what grows with the batch: activations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from stages.train.gpipe.chain import Block, Chain
from stages.train.gpipe.sharing import tensors_of


class Replica:
    """Copies of blocks on a device of their own."""

    def __init__(self, blocks: tuple[Block, ...], device: torch.device, chain: Chain) -> None:
        """Copy blocks.

        Args:
            blocks: of one stage.
            device: where the copies work.
            chain: the whole network.
        """
        # Blocks may refer to the network that they are of; what only others use is not copied.
        own = {id(tensor) for tensor in tensors_of(blocks)}
        others = {id(t): t for t in tensors_of(chain.blocks) if id(t) not in own}
        modules = copy.deepcopy([block.module for block in blocks], others)
        self.blocks = tuple(
            Block(block.name, module.to(device))
            for block, module in zip(blocks, modules, strict=True)
        )
        self._home, self._here = _parts(blocks), _parts(self.blocks)
        home, here = nn.ModuleList(self._home), nn.ModuleList(self._here)
        self._weights = _pairs(home.parameters(), here.parameters())
        self._statistics = _pairs(home.buffers(), here.buffers())

    @torch.no_grad()
    def fetch(self) -> None:
        """Take over weights, statistics, and what learns."""
        _copy(self._statistics)
        _copy(self._weights)
        for home, here in self._weights:
            here.requires_grad_(home.requires_grad)
            here.grad = None
        for part, twin in zip(self._home, self._here, strict=True):
            twin.training = part.training

    @torch.no_grad()
    def hand_in(self) -> None:
        """Add the gradients to those at home, and put the statistics there."""
        _copy([(here, home) for home, here in self._statistics])
        for home, here in self._weights:
            if here.grad is None:
                continue
            grad = here.grad.to(home.device, non_blocking=True)
            home.grad = grad if home.grad is None else home.grad.add_(grad)


Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def _parts(blocks: Iterable[Block]) -> list[nn.Module]:
    return [part for block in blocks for part in block.module.modules()]


def _pairs(home: Iterable[torch.Tensor], here: Iterable[torch.Tensor]) -> Pairs:
    """Pair tensors that stand in the same places; what is used twice is paired once."""
    return list({id(one): (one, other) for one, other in zip(home, here, strict=True)}.values())


def _copy(pairs: Pairs) -> None:
    if pairs:
        torch._foreach_copy_([there for _, there in pairs], [one for one, _ in pairs])
