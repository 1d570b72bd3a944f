"""Joined: gradients and losses that are means over all ranks, and statistics of the first one.

Every rank learns from an equal share of the mini-batch, so that the mean over ranks of their mean
losses is the mean loss of the mini-batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from stages.augment.loader import Batch
from stages.train.gradients import Gradients

_BUCKET_BYTES = 25 << 20


class Joined:
    """`Gradients` of a mini-batch whose samples are spread over ranks."""

    def __init__(
        self,
        own: Gradients,
        module: nn.Module,
        group: dist.ProcessGroup,
        *,
        average: bool,
        statistics: list[torch.Tensor],
    ) -> None:
        """Join the gradients of one rank with those of the others.

        Args:
            own: computes the gradients of this rank's share.
            module: the network they are of.
            group: the ranks that hold the same part of it.
            average: whether that is still to be done (DDP and FSDP2 do it while they compute).
            statistics: buffers that are to be those of the first rank (DDP does that too).
        """
        self.own, self.module, self.group = own, module, group
        self.average, self.statistics = average, statistics

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler, step: int) -> torch.Tensor:
        """Compute this rank's gradients and put the mean over all ranks in their place."""
        share_buffers(self.statistics, self.group)
        loss = self.own.backward(batch, scaler, step).clone()
        if self.average:
            self._average()
        dist.all_reduce(loss, group=self.group)
        return loss / self.group.size()

    def close(self) -> None:
        """Stop what computes this rank's gradients."""
        self.own.close()

    def _average(self) -> None:
        for bucket in self._buckets():
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat, group=self.group)
            flat /= self.group.size()
            means = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, mean in zip(bucket, means, strict=True):
                gradient.copy_(mean.view(gradient.shape))

    def _buckets(self) -> Iterator[list[torch.Tensor]]:
        """Yield gradients of one type, about as many as one message should carry."""
        bucket: list[torch.Tensor] = []
        size = 0
        for weight in self.module.parameters():
            if not weight.requires_grad:
                continue
            if weight.grad is None:  # not used in this batch; on another rank it may have been
                weight.grad = torch.zeros_like(weight)
            if bucket and (size > _BUCKET_BYTES or bucket[0].dtype != weight.grad.dtype):
                yield bucket
                bucket, size = [], 0
            bucket.append(weight.grad)
            size += weight.grad.nbytes
        if bucket:
            yield bucket


def persistent_buffers(module: nn.Module) -> list[torch.Tensor]:
    """Return what a network's state holds beside its parameters: statistics and counters."""
    kept = module.state_dict().keys()
    return [buffer for name, buffer in module.named_buffers() if name in kept]


def share_buffers(buffers: list[torch.Tensor], group: dist.ProcessGroup) -> None:
    """Give all ranks the first one's buffers: its statistics are those that count."""
    if buffers:
        dist._broadcast_coalesced(group, buffers, _BUCKET_BYTES, 0)  # type: ignore[attr-defined]
