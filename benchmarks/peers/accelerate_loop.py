"""Accelerate: Hugging Face's wrapper around a loop that one writes oneself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from benchmarks.metered import Metered
from benchmarks.networks import Network
from benchmarks.peers.pairs import Pairs, SummedLoss
from benchmarks.trainees import Learned, Trainee, fast_module
from stages.augment.loader import Batch


@dataclass
class _Accelerated:
    accelerator: Accelerator
    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batches: Metered
    loss: SummedLoss

    def learn(self, steps: int) -> Learned:
        """Take so many steps."""
        self.batches.steps = steps
        for images, targets in Pairs(self.batches):
            loss = self.loss(self.module(images), targets)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return Learned(self.loss.take() / len(self.batches), self.batches.turn)


def open_peer(network: Network, batches: Sequence[Batch], *, shows: bool) -> Trainee:
    """Return its loop; it shows no progress by itself."""
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    module, optimizer = accelerator.prepare(*fast_module(network))
    return _Accelerated(accelerator, module, optimizer, Metered(batches), SummedLoss())
