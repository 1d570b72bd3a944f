"""SharedStages: parameters, buffers and gradients of stages, moved to where all processes see them.

The tensors keep their identity: optimizers, averages and state dicts notice nothing. A parameter
that several stages use has one value and a gradient for each of them; they are added at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from stages.train.gpipe.chain import Block
from stages.train.gpipe.messages import Mode, SharedTensor, pack_blocks
from stages.train.gpipe.probe import Layout
from stages.train.gpipe.shared import Allocator, Place, Shared


class SharedStages:
    """The tensors of all stages but the last."""

    def __init__(self, stages: Sequence[tuple[Block, ...]]) -> None:
        """Move the tensors.

        Args:
            stages: the blocks of each stage; those of the last one stay where they are.
        """
        self._all = {id(t) for blocks in stages for t in tensors_of(blocks)}
        self._stages = stages[:-1]
        self._tensors = [tensors_of(blocks) for blocks in self._stages]
        allocator = Allocator()
        values: dict[int, Place] = {}
        for tensor in (tensor for tensors in self._tensors for tensor in tensors):
            if id(tensor) not in values:
                values[id(tensor)] = allocator.place(Layout.of(tensor))
        self.records = [
            tuple(_record(tensor, values[id(tensor)], allocator) for tensor in tensors)
            for tensors in self._tensors
        ]
        self.memory = Shared.of_size(allocator.num_bytes)
        self._move(values)
        self._grads = [
            {
                number: (tensors[number], self.memory.tensor(record.grad))
                for number, record in enumerate(records)
                if record.grad is not None
            }
            for tensors, records in zip(self._tensors, self.records, strict=True)
        ]

    def mode(self, stage: int) -> Mode:
        """Return what of a stage learns at present."""
        return Mode(
            tuple(tensor.requires_grad for tensor in self._tensors[stage]),
            tuple(part.training for b in self._stages[stage] for part in b.module.modules()),
        )

    def pack(self, stage: int) -> bytes:
        """Return the blocks of a stage without their tensors, for its process."""
        numbers = {id(tensor): number for number, tensor in enumerate(self._tensors[stage])}
        return pack_blocks(self._stages[stage], numbers, self._all)

    def collect(
        self, unused: Mapping[int, Sequence[int]], before: Mapping[int, torch.Tensor]
    ) -> None:
        """Make what the processes have added up the gradients of the parameters here.

        Args:
            unused: for each stage, the numbers of parameters that took no part.
            before: gradients from before the step, by `id` of their parameter, which stay part.
        """
        for stage, grads in enumerate(self._grads):
            for number, (parameter, grad) in grads.items():
                if number in unused[stage]:
                    continue
                if parameter.grad is None:
                    parameter.grad = grad
                else:  # another stage uses it too
                    parameter.grad.add_(grad)
        for grads in self._grads:
            for parameter, _ in grads.values():
                if (
                    earlier := before.get(id(parameter))
                ) is not None and parameter.grad is not None:
                    parameter.grad.add_(earlier)

    def set_aside(self) -> dict[int, torch.Tensor]:
        """Return copies of gradients that are there already, and take them off."""
        earlier = {}
        for grads in self._grads:
            for parameter, _ in grads.values():
                if parameter.grad is not None:
                    earlier[id(parameter)] = parameter.grad.clone()
                    parameter.grad = None
        return earlier

    @torch.no_grad()
    def _move(self, values: Mapping[int, Place]) -> None:
        for tensors in self._tensors:
            for tensor in tensors:
                place = self.memory.tensor(values[id(tensor)])
                if tensor.data_ptr() != place.data_ptr():
                    place.copy_(tensor)
                    tensor.data = place


def tensors_of(blocks: tuple[Block, ...]) -> list[torch.Tensor]:
    """Return the parameters and buffers of blocks, each once."""
    modules = [block.module for block in blocks]
    found = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
    return list(found.values())


def _record(tensor: torch.Tensor, value: Place, allocator: Allocator) -> SharedTensor:
    is_parameter = isinstance(tensor, nn.Parameter)  # even a frozen one may learn later
    return SharedTensor(
        value, is_parameter, allocator.place(Layout.of(tensor)) if is_parameter else None
    )
