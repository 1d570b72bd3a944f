"""DeferredNorms: batch norm statistics of a whole mini-batch that is seen in pieces.

    with norms.deferred(pieces=4):         # running statistics are the user's again after it
        norms.select(0); forward(...)      # piece 0; what its layers measure is only noted
        norms.select(None); forward(...)   # a recomputation: measures nothing
    # here each layer has moved its running mean and variance once, by those of all pieces

Each piece is normalized by its own statistics (GPipe, section 2.3). Only the running ones, which
evaluation uses, are put together. A kernel writes a piece's statistics anyway: with momentum 1 into
a row of its own, so that noting them costs nothing. P pieces, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class _Rows:
    """What one call of a layer measured on each piece; the row after the last is thrown away."""

    mean: torch.Tensor  # (P + 1, C)
    var: torch.Tensor  # (P + 1, C), unbiased, as the kernel gives it
    counts: list[int]  # (P + 1): values per channel

    def of_all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and unbiased variance over all pieces, in float64."""
        n = torch.tensor(self.counts[:-1], dtype=torch.float64, device=self.mean.device)[:, None]
        total = n.sum()
        means, variances = self.mean[:-1].double(), self.var[:-1].double() * (n - 1) / n
        mean = (n * means).sum(0) / total
        var = (n * (variances + (means - mean) ** 2)).sum(0) / (total - 1)
        return mean, var


class _Norm:
    """One layer, whose buffers are exchanged for rows while statistics are deferred."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.calls: list[_Rows] = []  # one a call, for layers that are used twice in one network
        self.call = self.row = 0
        self._pieces = 0

    def begin(self, pieces: int) -> None:
        if self._pieces != pieces:
            self.calls, self._pieces = [], pieces
        for rows in self.calls:
            rows.counts[:] = [0] * (pieces + 1)
        layer = self.layer
        self._momentum, self._own = layer.momentum, dict(layer._buffers)
        self._count = torch.zeros_like(_there(self._own["num_batches_tracked"]))
        layer.momentum = 1.0
        layer._buffers["num_batches_tracked"] = self._count
        self._hook = layer.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(
        self, layer: nn.Module, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]
    ) -> None:
        if not layer.training:
            return
        x = args[0] if args else kwargs["input"]
        count = x.numel() // x.shape[1]
        if count == 1:
            raise ConfigError(
                f"train.parallel.micro_batches: {self._pieces} leaves a {type(layer).__name__} one "
                "value a channel, which has no variance. Use fewer micro-batches, or a larger "
                "batch_size."
            )
        if self.call == len(self.calls):
            mean = _there(self._own["running_mean"])
            shape = (self._pieces + 1, len(mean))
            self.calls.append(
                _Rows(mean.new_zeros(shape), mean.new_zeros(shape), [0] * (self._pieces + 1))
            )
        rows = self.calls[self.call]
        rows.counts[self.row] = count
        layer._buffers["running_mean"] = rows.mean[self.row]
        layer._buffers["running_var"] = rows.var[self.row]
        self.call += 1

    def end(self) -> None:
        self._hook.remove()
        self.layer.momentum = self._momentum
        self.layer._buffers.update(self._own)

    @torch.no_grad()
    def commit(self) -> None:
        mean, var = _there(self.layer.running_mean), _there(self.layer.running_var)
        tracked = _there(self.layer.num_batches_tracked)
        for rows in self.calls:
            if not any(rows.counts[:-1]):
                continue
            tracked.add_(1)
            share = 1 / float(tracked) if self._momentum is None else self._momentum
            for running, new in zip((mean, var), rows.of_all(), strict=True):
                running.mul_(1 - share).add_((share * new).to(running.dtype))


class DeferredNorms:
    """All batch norm layers of some modules that track statistics."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        layers = {layer: None for module in modules for layer in module.modules()}
        self._norms = [
            _Norm(layer)
            for layer in layers
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]

    @contextmanager
    def deferred(self, pieces: int) -> Iterator[None]:
        """Note statistics by piece; at the end move the running ones, once.

        Raises:
            ConfigError: a piece is a single value per channel.
        """
        for norm in self._norms:
            norm.begin(pieces)
        try:
            yield
        finally:
            for norm in self._norms:
                norm.end()
        for norm in self._norms:
            norm.commit()

    def select(self, piece: int | None) -> None:
        """Say which piece the next forward pass is of; None: one that is not to count."""
        for norm in self._norms:
            norm.row, norm.call = -1 if piece is None else piece, 0


def _there(buffer: torch.Tensor | None) -> torch.Tensor:
    assert buffer is not None  # chosen by having running statistics
    return buffer
