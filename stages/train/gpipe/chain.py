"""Chain: a network as the list of blocks that it runs through, one after the other.

    chain = split(module, example)          # split/: by protocol, nn.Sequential, or tracing
    chain.blocks[0].name                    # "body.layer1.0"
    carry = (images,)
    for block in chain.blocks:
        carry = block(carry)                # what crosses a cut: one tensor or several

A block's parameters are those of the network itself, so the chain and the network train as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

Carry = tuple[torch.Tensor, ...]
"""What crosses a cut: the tensors that later blocks still need."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the network that no cut goes through."""

    name: str
    """Where it begins, spelled as in the state dict: ``body.layer1.0``."""
    module: nn.Module
    """Maps the tensors of a carry to one tensor or a tuple of tensors."""

    def __call__(self, carry: Carry) -> Carry:
        """Run the block."""
        result: torch.Tensor | tuple[torch.Tensor, ...] = self.module(*carry)
        return (result,) if isinstance(result, torch.Tensor) else tuple(result)


@dataclass(frozen=True, slots=True)
class Chain:
    """All blocks of a network in the order in which they run."""

    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Run all blocks; equals the network itself."""
        carry: Carry = (images,)
        for block in self.blocks:
            carry = block(carry)
        (logits,) = carry
        return logits

    def stages(self, bounds: tuple[int, ...]) -> Iterator[tuple[Block, ...]]:
        """Yield the blocks of each stage; `bounds` are block numbers: 0, the cuts, and the end."""
        for start, stop in pairwise(bounds):
            yield self.blocks[start:stop]
