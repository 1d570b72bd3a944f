"""DataParallel: the layout of ranks that learn from different samples.

Each rank holds a copy of the network (DDP), or a shard of each weight (`fully_sharded`). All hold
the same weights after each step, so whatever depends on weights and losses alone is decided alike
without asking; what depends on clocks and signals is agreed on.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import DataError
from pipeline.interrupt import StopFlag
from stages.augment.loader import Batch, Loader
from stages.train.distributed.group import Group
from stages.train.distributed.joined import Joined, persistent_buffers, share_buffers
from stages.train.distributed.sharded import own_part, shard_network, sharded_like, unsharded
from stages.train.gradients import Forward, Gradients
from stages.train.layout import Remembered, Tensors, Wish
from stages.train.models.classifier import Classifier
from stages.train.reproducible import RandomState, capture_random_state


@dataclass(frozen=True)
class DataParallel:
    """A `Layout` of several processes."""

    group: Group
    is_sharded: bool
    """Whether each rank holds shards of the weights (FSDP2) instead of a copy (DDP)."""

    @property
    def shard(self) -> tuple[int, int]:
        """(rank, world) of the data."""
        return self.group.mesh.get_local_rank("data"), self.group.mesh["data"].size()

    @property
    def eval_shard(self) -> tuple[int, int]:
        """(rank, world) of evaluation."""
        return self.shard

    @property
    def is_staged(self) -> bool:
        """Whether each rank trains only some stages: no."""
        return False

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.group.rank == 0

    def spread(
        self, module: Classifier, average: torch.nn.Module | None, *, overlap: bool
    ) -> Forward:
        """Put a network on all ranks; return its forward pass."""
        if self.is_sharded:
            for network in (module, average):
                if network is not None:
                    shard_network(network, self.group.mesh["data"])
            return module
        if not overlap:
            return module
        own = self.group.device
        return DistributedDataParallel(
            module,
            device_ids=[own.index] if own.is_cuda else None,
            process_group=self.group.data,
            gradient_as_bucket_view=True,
        )

    def joined(self, gradients: Gradients, module: Classifier, *, overlap: bool) -> Gradients:
        """Return what computes gradients and losses that are means over all ranks."""
        ddp = overlap and not self.is_sharded
        return Joined(
            gradients,
            module,
            self.group.data,
            average=not overlap and not self.is_sharded,
            statistics=[] if ddp else persistent_buffers(module),
        )

    def own(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return what this rank holds of each tensor, in the same memory."""
        return [own_part(tensor) for tensor in tensors] if self.is_sharded else tensors

    def placed(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return a whole tensor on the device of another and, if it is a shard, as a shard."""
        return sharded_like(whole, like)

    def is_own(self, name: str) -> bool:
        """All are, or a shard of each."""
        return True

    def merged(self, states: Remembered) -> Remembered:
        """Return them as they are: all ranks remember the same."""
        return states

    def norm_of_all(self, norm: torch.Tensor) -> torch.Tensor:
        """Return the norm: gradients are whole, or shards that know of each other."""
        return norm

    def whole(self, tensors: Tensors) -> Tensors:
        """Return tensors without shards."""
        return {name: unsharded(tensor) for name, tensor in tensors.items()}

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy on the CPU; of a shard, where it is."""
        detached = tensor.detach()
        return detached.clone() if self.is_sharded else detached.cpu().clone()

    def settle(self, module: torch.nn.Module) -> None:
        """Give all ranks the first one's buffers: its statistics are those that count."""
        share_buffers(persistent_buffers(module), self.group.data)

    def share(self, flag: torch.Tensor) -> None:
        """Raise a flag everywhere that one rank has raised, where ranks hold different shards."""
        if self.is_sharded:
            dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group.data)

    def agree(self, wish: Wish, stop: StopFlag) -> Wish:
        """Return what any rank wishes, and pass on a stop that any was asked for."""
        save, leave = self._any(stop, wish.save, wish.leave)
        return Wish(save=save, leave=leave)

    def in_step(self, loader: Loader, stop: StopFlag) -> Iterator[tuple[Batch, bool]]:
        """Yield an epoch's batches, equally many on all ranks, and whether each one counts.

        Raises:
            DataError: this rank has no sample at all.
            Interrupted: a rank was asked to stop; all raise at the same batch.
        """
        batches, last = iter(loader), None
        while True:
            batch = next(batches, None)
            (more,) = self._any(stop, batch is not None)
            stop.check()
            if not more:
                return
            last = batch or last
            if last is None:
                raise DataError(
                    f"eval: {self.group.place} has no image that can be read. Use fewer processes."
                )
            yield last, batch is not None

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all ranks, on the CPU."""
        rows = rows.cpu()
        counts = [torch.zeros((), dtype=torch.int64) for _ in range(self.group.world)]
        dist.all_gather(counts, torch.tensor(len(rows)), group=self.group.control)
        longest = int(max(counts))
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=self.group.control)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def random_states(self) -> list[RandomState]:
        """Return the random state of each rank, in order."""
        states: list[RandomState | None] = [None] * self.group.world
        dist.all_gather_object(states, capture_random_state(), group=self.group.control)
        return [state for state in states if state is not None]

    def first_says(self, text: str) -> str:
        """Return what the first rank says."""
        said: list[str] = [text]
        dist.broadcast_object_list(said, src=0, group=self.group.control)
        return said[0]

    def _any(self, stop: StopFlag, *flags: bool) -> list[bool]:
        """Return for each flag whether any rank has raised it; hear of stops on the way."""
        number = signal.Signals[stop.signal_name].value if stop.requested else 0
        said = torch.tensor([number, *flags], dtype=torch.int32)
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.group.control)
        number, *heard = said.tolist()
        if number and not stop.requested:
            stop.request(signal.Signals(number).name)
        return [bool(flag) for flag in heard]
