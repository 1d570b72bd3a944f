"""Declared blocks: an nn.Sequential, or a network that says itself what its blocks are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from stages.train.gpipe.chain import Block, Carry
from stages.train.gpipe.split.cuts import COARSE
from stages.train.gpipe.split.errors import CannotSplit
from stages.train.gpipe.split.traced import traced_blocks
from stages.train.maps.batch_norm import NormedSequential


@runtime_checkable
class PipelineBlocks(Protocol):
    """A network that knows its blocks.

    Calling the blocks one after the other equals calling the network. Each takes what the block
    before returned: one tensor, or a tuple whose tensors become its arguments. A block holds
    parameters of the network, none of which another block holds, and works for any batch size. A
    block that is no submodule of the network must not ask for its own `training`, which nobody
    sets: its submodules may.
    """

    def pipeline_blocks(self) -> Sequence[nn.Module | tuple[str, nn.Module]]:
        """Return the blocks in order; a submodule of the network needs no name."""
        ...


class Joined(nn.Sequential):
    """Declared blocks that no cut may part, as one."""

    def forward(self, *carry: torch.Tensor) -> Carry:
        """Run them one after the other."""
        for i, module in enumerate(self):
            carry = Block(str(i), module)(carry)
        return carry


class OnCopies(nn.Module):
    """A declared block that overwrites its input in place; what it overwrites is a copy.

    At a cut its input is a leaf, which autograd does not let anyone overwrite, and which the
    recomputation of the block needs once more.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *carry: torch.Tensor) -> torch.Tensor | Carry:
        """Run the block on copies."""
        result: torch.Tensor | Carry = self.module(*(tensor.clone() for tensor in carry))
        return result


def declared_blocks(net: nn.Module, example: torch.Tensor) -> list[Block] | None:
    """Return the blocks that a network declares, named relative to it; None if it does not.

    Raises:
        CannotSplit: what pipeline_blocks() returned is no list of modules.
    """
    if isinstance(net, PipelineBlocks):
        return _joined(net, _named(net, net.pipeline_blocks()), (example,))
    if _is_plain(net):
        return _joined(net, list(_flat(net, "")), (example,), finer=True)
    return None


_PLAIN = (nn.Sequential.forward, NormedSequential.forward)


def _is_plain(net: nn.Module) -> bool:
    return isinstance(net, nn.Sequential) and type(net).forward in _PLAIN


def _flat(net: nn.Module, prefix: str) -> Iterator[Block]:
    for name, child in net.named_children():
        if _is_plain(child):
            yield from _flat(child, f"{prefix}{name}.")
        else:
            yield Block(prefix + name, child)


def _named(net: nn.Module, declared: Sequence[nn.Module | tuple[str, nn.Module]]) -> list[Block]:
    paths = {id(module): path for path, module in net.named_modules()}
    blocks: list[Block] = []
    for i, item in enumerate(declared):
        name, module = item if isinstance(item, tuple) else (None, item)
        if not isinstance(module, nn.Module):
            raise CannotSplit(
                type(net).__name__, f"pipeline_blocks()[{i}] is {module!r}, which is no module"
            )
        blocks.append(Block(name or paths.get(id(module)) or f"block{i}", module))
    return blocks


@dataclass(slots=True)
class _Piece:
    """One block, and what it was called with."""

    block: Block
    carry: Carry
    versions: list[int]

    @property
    def overwrites(self) -> bool:
        """Whether the memory of its input has been written to since."""
        return self.versions != [tensor._version for tensor in self.carry]

    def with_next(self, other: _Piece) -> _Piece:
        """Join two pieces."""
        joined = Block(self.block.name, Joined(self.block.module, other.block.module))
        return _Piece(joined, self.carry, self.versions)


def _joined(
    net: nn.Module, blocks: Sequence[Block], carry: Carry, *, finer: bool = False
) -> list[Block]:
    """Return the blocks, with those as one between which there must be no cut."""
    pieces: list[_Piece] = []
    for block in _finer(net, blocks, carry) if finer else blocks:
        piece = _Piece(block, carry, [tensor._version for tensor in carry])
        carry = block(carry)
        in_place = piece.overwrites or getattr(block.module, "inplace", False) is True
        if in_place and any(True for _ in block.module.parameters()):
            piece.block = Block(block.name, OnCopies(block.module))
            in_place = False
        pieces.append(piece)
        while in_place and len(pieces) > 1:
            pieces[-2:] = [pieces[-2].with_next(pieces[-1])]
            in_place = pieces[-1].overwrites
    return _untied(net, [piece.block for piece in pieces])


def _finer(net: nn.Module, blocks: Sequence[Block], carry: Carry) -> Iterator[Block]:
    """Yield the blocks, those that hold much of the network in pieces if it can be traced."""
    whole = max(1, sum(p.numel() for p in net.parameters()))
    for block in blocks:
        pieces = [block]
        if len(carry) == 1 and sum(p.numel() for p in block.module.parameters()) / whole > COARSE:
            with suppress(CannotSplit):
                inner = traced_blocks(block.module, carry[0])
                if len(inner) > 1:
                    pieces = [Block(f"{block.name}.{b.name}", b.module) for b in inner]
        yield from pieces
        carry = block(carry)


def _untied(net: nn.Module, blocks: Sequence[Block]) -> list[Block]:
    """Join all blocks between the first and the last use of a parameter or buffer."""
    last: dict[int, int] = {}
    named: dict[int, str] = {}
    for i, block in enumerate(blocks):
        for name, tensor in (*block.module.named_parameters(), *block.module.named_buffers()):
            last[id(tensor)] = i
            named.setdefault(id(tensor), f"{block.name}.{name}")
    found: list[Block] = []
    reach = -1
    for i, block in enumerate(blocks):
        if i <= reach:
            found[-1] = Block(found[-1].name, Joined(found[-1].module, block.module))
        else:
            found.append(block)
        tensors = (*block.module.parameters(), *block.module.buffers())
        reach = max([reach, *(last[id(tensor)] for tensor in tensors)])
    if len(found) == 1 < len(blocks):
        tied = next((name for key, name in named.items() if last[key] == len(blocks) - 1), "")
        reason = f"the tied parameter '{tied}' is used by its first and its last block"
        raise CannotSplit(type(net).__name__, reason)
    return found
