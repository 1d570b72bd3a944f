"""Sharded: networks of which each rank holds a part of every weight (FSDP2), and whole tensors.

A weight is gathered when its block computes and forgotten afterwards; its gradient, its optimizer
state and its moving average exist as shards only. Weights are gathered in fp32 and autocast chooses
the precision of each operator, so that a sharded run computes what an unsharded one computes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_network(network: nn.Module, mesh: DeviceMesh) -> None:
    """Replace every parameter by a shard, in place; names and the state dict's keys stay."""
    # Shards are cut from memory as it lies; channels last is left to the activations.
    network.to(memory_format=torch.contiguous_format)
    for block in blocks_of(network):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # The root as well: what it keeps gathered would be stale once the shards move on.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """Yield what is gathered at once: the outermost entries of the network's sequences."""
    for child in network.children():
        if isinstance(child, nn.Sequential):
            yield from (block for block in child if next(block.parameters(), None) is not None)
        elif not isinstance(child, nn.ModuleList | nn.ModuleDict):
            # Entries of lists may be used without being called; they belong to what holds them.
            yield from blocks_of(child)


def unsharded(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole tensor (collective, if it is a shard)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this rank holds of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor in the form of another: whole, or as shards."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(
        tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None
    )
