"""Layout: the processes that train together, as one of them sees them.

    layout.shard                     # (0, 4): which part of the data is mine
    forward = layout.spread(module)  # gradients of all ranks become one
    layout.agree(Wish(...))          # all ranks leave the loop at the same step

`Alone` is the layout of one process: nothing is spread, and every question answers itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.interrupt import StopFlag
from stages.augment.loader import Batch, Loader
from stages.train.gradients import Forward, Gradients
from stages.train.models.classifier import Classifier
from stages.train.reproducible import RandomState, capture_random_state

Tensors = dict[str, torch.Tensor]
Value = torch.Tensor | int | float | bool | None
Remembered = dict[str, dict[str, Value]]
"""What an optimizer remembers, by parameter and by its own word: ``exp_avg``, ``step``."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What one rank would do after this step, by its own clock and its own signals."""

    save: bool = False
    leave: bool = False


class Layout(Protocol):
    """Who trains together, and what only they can do together.

    Every method that is `collective` has to be called by all ranks, at the same point.
    """

    @property
    def shard(self) -> tuple[int, int]:
        """(rank, world) of the data: which samples are this process's own."""
        ...

    @property
    def eval_shard(self) -> tuple[int, int]:
        """(rank, world) of evaluation, in which every process takes part."""
        ...

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        ...

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds shards of the weights only."""
        ...

    @property
    def is_staged(self) -> bool:
        """Whether each process trains only some stages of the network."""
        ...

    def spread(
        self, module: Classifier, average: torch.nn.Module | None, *, overlap: bool
    ) -> Forward:
        """Put a network on all ranks; return its forward pass (collective).

        Args:
            module: its parameters may be replaced by shards, in place; names stay.
            average: the moving average of `module`, spread alike.
            overlap: whether that forward pass has its gradients joined while they are computed.
        """
        ...

    def joined(self, gradients: Gradients, module: Classifier, *, overlap: bool) -> Gradients:
        """Return what computes gradients and losses that are means over all ranks (collective).

        Args:
            gradients: computes those of this rank's share of the mini-batch.
            module: the network they are of.
            overlap: as for `spread`.
        """
        ...

    def own(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return what this rank holds of each tensor, in the same memory."""
        ...

    def placed(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return a whole tensor on the device of another and, if it is a shard, as a shard."""
        ...

    def is_own(self, name: str) -> bool:
        """Tell whether this process trains a parameter, by its name in the network."""
        ...

    def whole(self, tensors: Tensors) -> Tensors:
        """Return tensors without shards (collective)."""
        ...

    def merged(self, states: Remembered) -> Remembered:
        """Return what optimizers remember of all parameters, whoever trains them (collective)."""
        ...

    def norm_of_all(self, norm: torch.Tensor) -> torch.Tensor:
        """Return the norm of the whole gradient from that of this process's part (collective)."""
        ...

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy to keep, off the device where there is room elsewhere."""
        ...

    def settle(self, module: torch.nn.Module) -> None:
        """Give all ranks the first one's buffers: its statistics are those that count."""
        ...

    def share(self, flag: torch.Tensor) -> None:
        """Raise a flag everywhere that one rank has raised (collective)."""
        ...

    def agree(self, wish: Wish, stop: StopFlag) -> Wish:
        """Return what any rank wishes, and pass on a stop that any was asked for (collective)."""
        ...

    def in_step(self, loader: Loader, stop: StopFlag) -> Iterator[tuple[Batch, bool]]:
        """Yield an epoch's batches, equally many on all ranks, and whether each one counts.

        Raises:
            Interrupted: a rank was asked to stop; all raise at the same batch.
        """
        ...

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all ranks, on the CPU (collective)."""
        ...

    def random_states(self) -> list[RandomState]:
        """Return the random state of each rank, in order (collective)."""
        ...

    def first_says(self, text: str) -> str:
        """Return what the first rank says (collective)."""
        ...


class Alone:
    """One process: nothing to spread, nobody to ask."""

    shard = (0, 1)
    eval_shard = (0, 1)
    is_first = True
    is_sharded = is_staged = False

    def spread(
        self, module: Classifier, average: torch.nn.Module | None, *, overlap: bool
    ) -> Forward:
        """Return the network itself."""
        return module

    def joined(self, gradients: Gradients, module: Classifier, *, overlap: bool) -> Gradients:
        """Return the gradients as they are."""
        return gradients

    def own(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return the tensors."""
        return tensors

    def placed(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return the tensor as it is."""
        return whole

    def is_own(self, name: str) -> bool:
        """All are."""
        return True

    def whole(self, tensors: Tensors) -> Tensors:
        """Return the tensors as they are."""
        return tensors

    def merged(self, states: Remembered) -> Remembered:
        """Return them as they are."""
        return states

    def norm_of_all(self, norm: torch.Tensor) -> torch.Tensor:
        """Return the norm."""
        return norm

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy on the CPU."""
        return tensor.detach().cpu().clone()

    def settle(self, module: torch.nn.Module) -> None:
        """Leave the buffers alone."""

    def share(self, flag: torch.Tensor) -> None:
        """Leave the flag alone."""

    def agree(self, wish: Wish, stop: StopFlag) -> Wish:
        """Return the wish."""
        return wish

    def in_step(self, loader: Loader, stop: StopFlag) -> Iterator[tuple[Batch, bool]]:
        """Yield an epoch's batches; each counts."""
        for batch in loader:
            stop.check()
            yield batch, True

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows on the CPU."""
        return rows.cpu()

    def random_states(self) -> list[RandomState]:
        """Return the one random state."""
        return [capture_random_state()]

    def first_says(self, text: str) -> str:
        """Return the text."""
        return text


ALONE = Alone()
