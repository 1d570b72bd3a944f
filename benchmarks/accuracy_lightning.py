"""Accuracy of Lightning: the same network under a Trainer with its defaults.

Trainer() as it comes, with its bar, its logger and its checkpoints; Adam with a rate of 1e-3 as in
Lightning's own first example; batches of the configuration's size, without augmentation.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

import lightning
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.accuracy import Curve
from benchmarks.accuracy_sides import NAIVE_RATE, Clock, Task


class _Module(lightning.LightningModule):
    """The network as a LightningModule."""

    def __init__(self, task: Task, seed: int, clock: Clock, limit_s: float) -> None:
        super().__init__()
        self.network = task.network(seed)
        self.test, self.clock, self.limit_s = task.test, clock, limit_s

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = cross_entropy(self.network(images), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), NAIVE_RATE)

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self.clock.start()

    def on_train_epoch_end(self) -> None:
        """Stop the clock, evaluate, and end the run when its time is up."""
        self.clock.stop()
        self.clock.note(self.network, self.test)
        self.trainer.should_stop = self.clock.seconds >= self.limit_s


def with_lightning(task: Task, seed: int, limit_s: float) -> Curve:
    """Train as Lightning does by default, until an epoch ends after so many seconds."""
    clock = Clock()
    loader = DataLoader(TensorDataset(*task.train), task.spec.batch_size, shuffle=True)
    with TemporaryDirectory(prefix="dlpipe-lightning-") as folder:
        trainer = lightning.Trainer(max_epochs=-1, default_root_dir=folder)
        trainer.fit(_Module(task, seed, clock, limit_s), loader)
    return Curve(clock.points)
