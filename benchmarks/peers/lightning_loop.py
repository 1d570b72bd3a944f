"""Lightning: its Trainer with automatic optimization, bare or with all its defaults."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import lightning
import torch

from benchmarks.metered import Metered
from benchmarks.networks import Network
from benchmarks.peers.pairs import Pairs, SummedLoss
from benchmarks.trainees import Learned, Trainee, fast_module
from stages.augment.loader import Batch


class _Module(lightning.LightningModule):
    def __init__(self, network: Network, batches: Metered, *, logs: bool) -> None:
        super().__init__()
        self.net, self.optimizer = fast_module(network)
        self.loss, self.batches, self.logs = SummedLoss(), batches, logs

    def training_step(
        self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int
    ) -> torch.Tensor:
        """Return the loss; the Trainer does the rest."""
        images, targets = batch
        loss = self.loss(self.net(images), targets)
        if self.logs:
            self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Come after all callbacks; the last time, stop the clock."""
        if batch_idx == len(self.batches) - 1:
            self.batches.finish()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the same optimizer for every fit, so that it goes on where it was."""
        return self.optimizer


@dataclass
class _Trained:
    module: _Module
    batches: Metered
    shows: bool

    def learn(self, steps: int) -> Learned:
        """Take so many steps."""
        self.batches.steps = steps
        screen = io.StringIO()
        with (
            TemporaryDirectory(prefix="dlpipe-lightning-") as folder,
            warnings.catch_warnings(),
            redirect_stdout(screen),
            redirect_stderr(screen),
        ):
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(
                accelerator="cpu", devices=1, max_epochs=1, default_root_dir=folder,
                logger=None if self.shows else False, enable_progress_bar=self.shows,
                enable_checkpointing=self.shows, enable_model_summary=False,
            )  # fmt: skip
            trainer.fit(self.module, Pairs(self.batches))
        return Learned(self.module.loss.take() / len(self.batches), self.batches.turn)


def open_peer(network: Network, batches: Sequence[Batch], *, shows: bool) -> Trainee:
    """Return its Trainer; `shows`: with bar, logger and checkpoints, as by default."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    metered = Metered(batches)
    return _Trained(_Module(network, metered, logs=shows), metered, shows)
