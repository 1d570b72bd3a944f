"""fastai: its Learner with its default callbacks; fp32 only, its AMP is for CUDA."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper

from benchmarks.metered import Metered
from benchmarks.networks import Network
from benchmarks.peers.pairs import Pairs, SummedLoss
from benchmarks.trainees import LEARNING_RATE, Learned, Trainee, fast_module
from stages.augment.loader import Batch


@dataclass
class _Fitted:
    learner: Learner
    batches: Metered
    loss: SummedLoss

    def learn(self, steps: int) -> Learned:
        """Take so many steps."""
        self.batches.steps = steps
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Your generator is empty")  # there is no eval split
            self.learner.fit(1)
        return Learned(self.loss.take() / len(self.batches), self.batches.turn)


def open_peer(network: Network, batches: Sequence[Batch], *, shows: bool) -> Trainee:
    """Return its Learner; `shows`: with the progress bar, as by default."""
    module, optimizer = fast_module(network)
    metered, loss = Metered(batches), SummedLoss()

    def same_optimizer(_: Iterable[torch.Tensor], **_settings: float) -> OptimWrapper:
        return OptimWrapper(opt=optimizer)

    with TemporaryDirectory(prefix="dlpipe-fastai-") as folder:
        loaders = DataLoaders(Pairs(metered), [], path=folder, device=torch.device("cpu"))
    learner = Learner(
        loaders, module, loss_func=loss, opt_func=same_optimizer, lr=LEARNING_RATE, wd=0.0
    )
    # Whether importing fastai adds the bar by itself depends on what else of it is imported.
    learner.remove_cbs(learner.cbs.filter(lambda each: isinstance(each, ProgressCallback)))
    if shows:
        learner.add_cb(ProgressCallback())
    return _Fitted(learner, metered, loss)
