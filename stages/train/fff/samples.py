"""Samples: what a conversion learns from, and what it is measured on.

with open_samples(spec, settings) as samples:
    convert(trained, network, fff, settings, samples, ctx)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice

import torch

from pipeline.artifacts import DataSpec
from stages.augment.loader import open_loader
from stages.train.fff.config import ConvertConfig

_HELD_BACK, _HELD_BACK_SIZE = 16, 32
"""Batches that a conversion is measured on, and samples of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Batches of inputs as networks take them; nothing else of them is known here."""

    train: Callable[[], Iterable[torch.Tensor]]
    """An epoch to learn from; asked for again at its end."""
    held_back: Sequence[torch.Tensor]
    """Never learned from; learning end to end is measured on them."""

    def endless(self) -> Iterator[torch.Tensor]:
        """Yield one epoch to learn from after the other."""
        while True:
            yield from self.train()


@contextmanager
def open_samples(spec: DataSpec, settings: ConvertConfig) -> Iterator[Samples]:
    """Open the train split, augmented as training has it, and the eval split where it is needed.

    Raises:
        DataError: a split cannot be read, or is smaller than one batch.
    """
    held_back = _from_eval(spec) if settings.end_to_end_steps else []
    with closing(open_loader(spec, "train")) as loader:
        yield Samples(train=lambda: (batch.inputs for batch in loader), held_back=held_back)


def _from_eval(spec: DataSpec) -> list[torch.Tensor]:
    """Return batches from all over the eval split, which is often sorted by class."""
    with closing(open_loader(spec, "eval", batch_size=_HELD_BACK_SIZE)) as loader:
        step = max(1, len(loader) // _HELD_BACK)
        return [batch.inputs for batch in islice(loader, 0, step * _HELD_BACK, step)]
