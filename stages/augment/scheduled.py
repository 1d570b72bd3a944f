"""ScheduledLoader: makes the `Loader` that other stages see from an executor and a schedule."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.device import Device
from pipeline.errors import DataError
from stages.augment.bad_files import BadFiles
from stages.augment.batch import Batch
from stages.augment.damage import DamagedSample
from stages.augment.executor import Executor
from stages.augment.mixing import mix_batch
from stages.augment.operations import Cutmix, Mixup
from stages.augment.schedule import Schedule

Queue = deque[tuple[int, NDArray[np.int64]]]
"""Batches asked for and not yet handed over: number and manifest positions."""


class ScheduledLoader:
    """A `Loader` over any executor: it owns the position, the queue and the mixing."""

    def __init__(
        self,
        executor: Executor,
        schedule: Schedule,
        mixing: Sequence[Mixup | Cutmix],
        labels: NDArray[np.int64],
        bad_files: BadFiles,
        device: Device,
    ) -> None:
        self.batch_size = schedule.batch_size
        self.num_samples = schedule.num_samples
        self._executor = executor
        self._schedule = schedule
        self._mixing = mixing
        self._labels = labels
        self._bad_files = bad_files
        self._device = torch.device(str(device))
        self._epoch = 0
        self._number = 0
        """Batches of this epoch that were handed over."""
        self._running: Generator[Batch, None, None] | None = None
        self._begun = False
        """Whether the running iterator has been asked for a batch."""

    def __len__(self) -> int:
        """Return the number of batches of one epoch."""
        return self._schedule.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch; the next call starts the next one."""
        if self._running is not None:
            self._running.close()
            if self._begun and self._number:
                self._epoch, self._number = self._epoch + 1, 0
        self._begun = False
        self._running = self._run_epoch()
        return self._running

    def state_dict(self) -> Mapping[str, str | int]:
        """Return the position after the batch yielded last."""
        return {"epoch": self._epoch, "number": self._number, **self._identity()}

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Go back to a position.

        Raises:
            DataError: the position was taken from a loader that makes other batches.
        """
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise DataError(
                    f"loader state: {name} is {state.get(name)!r}, and this loader has {own!r}. "
                    "Open the loader as it was opened when the state was taken."
                )
        if self._running is not None:
            self._running.close()
            self._running = None
        self._epoch, self._number = int(state["epoch"]), int(state["number"])

    def close(self) -> None:
        """Free threads and memory."""
        if self._running is not None:
            self._running.close()
            self._running = None
        self._executor.close()

    def _identity(self) -> dict[str, str | int]:
        s = self._schedule
        return {
            "seed": s.seed,
            "samples": s.samples,
            "batch_size": s.batch_size,
            "rank": s.rank,
            "world": s.world,
        }

    def _run_epoch(self) -> Generator[Batch, None, None]:
        self._begun = True
        epoch = self._epoch
        order = self._schedule.order(epoch)
        ahead = iter(range(self._number, len(self)))
        queue: Queue = deque()
        try:
            while True:
                while len(queue) < self._executor.depth and (number := next(ahead, -1)) >= 0:
                    self._submit(queue, epoch, number, self._schedule.batch(order, number))
                if not queue:
                    break
                try:
                    images = self._executor.collect()
                except DamagedSample as damaged:
                    self._bad_files.add(damaged)
                    self._submit_again(queue, epoch)
                    continue
                number, positions = queue.popleft()
                batch = self._finish(images, positions, epoch, number)
                self._epoch, self._number = _normal(epoch, number + 1, len(self))
                yield batch
        finally:
            self._executor.drain()

    def _submit(
        self,
        queue: Queue,
        epoch: int,
        number: int,
        positions: NDArray[np.int64],
    ) -> None:
        mended = self._bad_files.mend(positions, keep_length=self._schedule.train)
        if len(mended):
            queue.append((number, mended))
            self._executor.submit(mended, self._schedule.key(epoch, number))

    def _submit_again(self, queue: Queue, epoch: int) -> None:
        """Ask anew for everything in the queue, without what has turned out to be damaged."""
        self._executor.drain()
        waiting = list(queue)
        queue.clear()
        for number, positions in waiting:
            self._submit(queue, epoch, number, positions)

    def _finish(
        self, images: torch.Tensor, positions: NDArray[np.int64], epoch: int, number: int
    ) -> Batch:
        mix = None
        if self._mixing:
            key = (*self._schedule.key(epoch, number), 2)
            images, mix = mix_batch(images, self._mixing, key)
        index = torch.from_numpy(positions).to(self._device)
        targets = torch.from_numpy(self._labels[positions]).to(self._device)
        return Batch(inputs=images, targets=targets, index=index, mix=mix)


def _normal(epoch: int, number: int, length: int) -> tuple[int, int]:
    """Return the position in its normal form: after the last batch stands the next epoch."""
    return (epoch + 1, 0) if number == length else (epoch, number)
