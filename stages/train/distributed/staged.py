"""Staged: the layout of ranks that hold stages of a pipeline, in copies that learn from other data.

Every rank keeps all weights, so that all of them can evaluate; gradients, optimizer states and
activations are of its own stages only. Weights of other stages grow stale with each step and are
fetched from their owners where somebody looks: at an evaluation and in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn

from stages.train.distributed.data_parallel import DataParallel
from stages.train.distributed.joined import Joined, persistent_buffers, share_buffers
from stages.train.gradients import Gradients
from stages.train.layout import Remembered, Tensors
from stages.train.models.classifier import Classifier


@dataclass(frozen=True)
class Staged(DataParallel):
    """A `Layout` of data x pipeline ranks."""

    owners: dict[str, int] = field(default_factory=dict)
    """The pipeline rank that trains each tensor of the network's state, by its name."""
    own_blocks: nn.ModuleList = field(default_factory=nn.ModuleList)

    @property
    def pipeline(self) -> dist.ProcessGroup:
        """The ranks that hold the stages of one copy of the network."""
        return self.group.mesh.get_group("pipeline")

    @property
    def is_staged(self) -> bool:
        """Whether each rank trains only some stages: yes."""
        return True

    @property
    def eval_shard(self) -> tuple[int, int]:
        """(rank, world): all ranks evaluate, each other samples."""
        return self.group.rank, self.group.world

    def divide(self, owners: Mapping[str, int], own_blocks: Sequence[nn.Module]) -> None:
        """Note who trains what, once the network has been cut."""
        self.owners.update(owners)
        self.own_blocks.extend(own_blocks)

    def is_own(self, name: str) -> bool:
        """Tell whether this rank trains a parameter."""
        return self.owners.get(name, 0) == self.pipeline.rank()

    def joined(self, gradients: Gradients, module: Classifier, *, overlap: bool) -> Gradients:
        """Return what computes gradients and losses that are means over all copies."""
        return Joined(
            gradients,
            self.own_blocks,
            self.group.data,
            average=True,
            statistics=persistent_buffers(self.own_blocks),
        )

    def whole(self, tensors: Tensors) -> Tensors:
        """Fetch tensors of the network from the ranks that train them, into the same memory."""
        for owner in range(self.pipeline.size()):
            theirs = [t for name, t in tensors.items() if self.owners.get(name, -1) == owner]
            _broadcast(theirs, self.pipeline, owner)
        return tensors

    def settle(self, module: nn.Module) -> None:
        """Give all ranks the weights of those that train them, and the first one's statistics."""
        own = {name: t for name, t in module.state_dict().items() if self.is_own(name)}
        buffers = dict(module.named_buffers())
        share_buffers([t for name, t in own.items() if name in buffers], self.group.data)
        self.whole(module.state_dict())

    def merged(self, states: Remembered) -> Remembered:
        """Return what all ranks remember, by parameter."""
        parts: list[Remembered] = [{} for _ in range(self.pipeline.size())]
        dist.all_gather_object(parts, states, group=self.pipeline)
        return {name: state for part in parts for name, state in part.items()}

    def share(self, flag: torch.Tensor) -> None:
        """Raise a flag everywhere: ranks see the gradients of their own stages only."""
        dist.all_reduce(flag, dist.ReduceOp.MAX)

    def norm_of_all(self, norm: torch.Tensor) -> torch.Tensor:
        """Return the norm of the whole gradient from that of this rank's part."""
        squared = norm**2
        dist.all_reduce(squared, group=self.pipeline)
        return squared.sqrt()


def _broadcast(tensors: list[torch.Tensor], group: dist.ProcessGroup, source: int) -> None:
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for same in by_type.values():
        flat = torch.cat([tensor.flatten() for tensor in same])
        dist.broadcast(flat, group=group, group_src=source)
        sizes = [tensor.numel() for tensor in same]
        for tensor, part in zip(same, torch.split(flat, sizes), strict=True):
            tensor.copy_(part.view(tensor.shape))
