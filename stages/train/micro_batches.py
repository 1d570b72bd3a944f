"""MicroBatches: the gradient of a mini-batch, computed piece by piece to save memory.

    pieces = split_batch(batch, 4)         # sizes differ by one at most
    pieces[0].loss(logits, smoothing)      # counts by its share of the batch

The losses of all pieces add up to the mean loss of the batch, so their gradients add up to its
gradient, however uneven the pieces are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from pipeline.device import Device
from pipeline.errors import ConfigError
from stages.augment.loader import Batch
from stages.train.deferred_norm import DeferredNorms
from stages.train.fff.penalties import collected_penalties
from stages.train.gradients import Forward
from stages.train.objective import Labels
from stages.train.precision import Precision


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch: n of the N samples of a mini-batch."""

    inputs: torch.Tensor  # images (n, H, W, C) uint8, or the tokens of texts (n, L) int32
    labels: Labels
    share: float
    """n / N: what its mean loss counts in that of the mini-batch."""

    def loss(self, logits: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Return what this piece adds to the mean loss of the mini-batch."""
        return self.labels.loss(logits, smoothing) * self.share


def piece_sizes(samples: int, pieces: int) -> tuple[int, ...]:
    """Return how many samples each piece gets; the first ones take what is left over.

    Raises:
        ConfigError: there are fewer samples than pieces.
    """
    if samples < pieces:
        raise ConfigError(
            f"train.parallel.micro_batches: {pieces} pieces cannot be cut from a batch of "
            f"{samples} image(s). Use at most {samples}, or a larger batch_size."
        )
    least, rest = divmod(samples, pieces)
    return tuple(least + (number < rest) for number in range(pieces))


def split_batch(batch: Batch, pieces: int) -> tuple[Piece, ...]:
    """Split a mini-batch; a mixed image keeps its partner's label, wherever the partner goes.

    Raises:
        ConfigError: there are fewer samples than pieces.
    """
    samples = len(batch.targets)
    sizes = piece_sizes(samples, pieces)
    inputs = torch.split(batch.inputs, list(sizes))
    labels = Labels.of(batch.targets, batch.mix).split(sizes)
    shares = [size / samples for size in sizes]
    return tuple(map(Piece, inputs, labels, shares))


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """Gradient accumulation on one device: forward and backward for one piece after the other."""

    module: nn.Module
    forward: Forward
    """The module itself, or what it is compiled to."""
    precision: Precision
    device: Device
    label_smoothing: float
    pieces: int
    _norms: DeferredNorms = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_norms", DeferredNorms([self.module]))

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, step: int) -> torch.Tensor:
        """Add the gradient of the scaled mean loss to every parameter's ``grad``.

        Raises:
            ConfigError: the batch has fewer samples than pieces.
        """
        total = torch.zeros((), device=batch.targets.device)
        with self._norms.deferred(self.pieces):
            for number, piece in enumerate(split_batch(batch, self.pieces)):
                self._norms.select(number)
                with self.precision.autocast(self.device), collected_penalties() as penalties:
                    loss = piece.loss(self.forward(piece.inputs), self.label_smoothing)
                loss = penalties.added_to(loss, piece.share)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return total

    def close(self) -> None:
        """Free nothing: the network is the learner's."""
