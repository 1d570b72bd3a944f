"""Probe: one trial run of a chain finds out what its blocks do to carries and generators.

probed = probe(chain, images, precision, device)
probed.traits[3].draws          # block 3 draws random numbers
probed.carries[3]               # layouts of what goes into block 3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.device import Device
from stages.train.deferred_norm import DeferredNorms
from stages.train.gpipe.chain import Carry, Chain
from stages.train.gpipe.randomness import generators_kept, state_of
from stages.train.precision import Precision


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        """Return the layout of a copy, which has no gaps and no overlaps."""
        dense = torch.empty_like(tensor, device="meta")
        return cls(tuple(dense.shape), dense.stride(), dense.dtype)

    @property
    def num_bytes(self) -> int:
        """Bytes without padding."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Traits:
    """What an engine has to know about a block."""

    draws: bool
    """Whether it draws from the torch generator: dropout, stochastic depth."""
    writes: bool
    """Whether it changes what is given to it, as an in-place ReLU does."""
    aliases: bool
    """Whether what it returns may lie in the memory of what was given to it."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the trial run showed."""

    traits: tuple[Traits, ...]
    carries: tuple[tuple[Layout, ...], ...]
    """What goes into each block, and, at the end, what comes out of the last."""


def overwrites_input(traits: Sequence[Traits]) -> bool:
    """Tell whether blocks that run one after the other change what the first of them is given."""
    for trait in traits:
        if trait.writes:
            return True
        if not trait.aliases:
            return False
    return False


@torch.no_grad()
def probe(chain: Chain, images: torch.Tensor, precision: Precision, device: Device) -> Probed:
    """Run the chain once on real images, in training mode; weights and statistics stay."""
    place = images.device
    traits, carries = [], []
    carry: Carry = (images,)
    norms = DeferredNorms(block.module for block in chain.blocks)
    with norms.deferred(1), generators_kept({place}), precision.autocast(device):
        norms.select(None)
        for block in chain.blocks:
            carries.append(tuple(map(Layout.of, carry)))
            state, versions = state_of(place), [tensor._version for tensor in carry]
            result = block(carry)
            traits.append(
                Traits(
                    draws=not torch.equal(state, state_of(place)),
                    writes=versions != [tensor._version for tensor in carry],
                    aliases=bool(_memory(carry) & _memory(result)),
                )
            )
            carry = result
    carries.append(tuple(map(Layout.of, carry)))
    return Probed(tuple(traits), tuple(carries))


def _memory(carry: Carry) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in carry}
