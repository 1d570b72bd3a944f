"""Loader: opens a split of a `DataSpec`. The one door through which other stages read data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts import DataSpec
from pipeline.backend import select
from pipeline.device import CPU, Device
from pipeline.errors import DataError
from stages.augment.backends import BACKENDS
from stages.augment.batch import Batch, Loader, Mix
from stages.augment.images import DamagedImage
from stages.augment.mixing import mix_batch
from stages.augment.plan import Plan, make_plan
from stages.augment.reader import open_reader
from stages.augment.schedule import Schedule
from stages.augment.spec import TransformSpec

__all__ = ["Batch", "Loader", "Mix", "open_loader"]

SplitName = Literal["train", "eval", "calibration"]


class Executor(Protocol):
    """What a backend offers: a queue that images come out of in the order they were asked for."""

    depth: int
    """How many batches are worth having in the queue."""

    def submit(self, positions: NDArray[np.int64], key: Sequence[int]) -> None:
        """Ask for the images at these manifest positions, with random numbers drawn from `key`."""
        ...

    def collect(self) -> torch.Tensor:
        """Return the images (N, H, W, C) asked for first; raises `DamagedImage`."""
        ...

    def drain(self) -> None:
        """Forget what is in the queue."""
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...


def open_loader(
    spec: DataSpec,
    split: SplitName,
    *,
    batch_size: int | None = None,
    device: Device = CPU,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    backend: str | None = None,
    on_bad_file: Callable[[str, str], None] | None = None,
    on_error: Literal["skip", "fail"] = "skip",
) -> Loader:
    """Open a loader over one split; `train` is shuffled and augmented, the others keep their order.

    Args:
        spec: what the augment stage left.
        split: ``train`` (endless epochs of random crops and so on, last short batch dropped),
            ``eval`` or ``calibration`` (eval transform, manifest order, last short batch kept).
        batch_size: defaults to the spec's.
        device: where decoding and transforms run; the tensors of a batch are on it.
        seed: same seed, same batches, whatever the number of threads.
        shard: (rank, world): this process's share of every epoch.
        backend: defaults to the spec's.
        on_bad_file: told the name and the reason of each image that cannot be decoded, once.
        on_error: ``skip`` such an image (in train another of its batch takes its place, elsewhere
            the batch is one shorter), or ``fail``.

    Raises:
        DataError: the split cannot be read, or is smaller than one batch.
        BackendUnavailable: the backend cannot run here.
    """
    train = split == "train"
    transforms = TransformSpec.load(spec.transforms)
    plan = make_plan(
        transforms.train if train else transforms.eval,
        height=spec.height,
        width=spec.width,
        channels=spec.channels,
    )
    reader = open_reader(spec, split)
    schedule = Schedule(
        samples=len(reader.labels),
        batch_size=batch_size or spec.batch_size,
        train=train,
        seed=seed,
        rank=shard[0],
        world=shard[1],
    )
    chosen = select(BACKENDS, backend or spec.backend, device, where="stages.augment.backend")
    quarantine = Quarantine(on_bad_file, on_error)
    executor: Executor = chosen.backend.load().open_executor(
        reader, plan, device, schedule.batch_size, quarantine.add
    )
    return ScheduledLoader(executor, schedule, plan, reader.labels, quarantine, device)


class Quarantine:
    """The images that turned out to be damaged."""

    def __init__(
        self, on_bad_file: Callable[[str, str], None] | None, on_error: Literal["skip", "fail"]
    ) -> None:
        self._on_bad_file = on_bad_file
        self._on_error = on_error
        self._positions: set[int] = set()

    def add(self, damaged: DamagedImage) -> None:
        """Put an image aside, or raise it when damage is not to be skipped."""
        if self._on_error == "fail":
            raise damaged
        if damaged.position not in self._positions and self._on_bad_file is not None:
            self._on_bad_file(damaged.name, damaged.reason)
        self._positions.add(damaged.position)

    def mend(self, positions: NDArray[np.int64], *, keep_length: bool) -> NDArray[np.int64]:
        """Leave out what is in quarantine, or put the batch's first good image in its place."""
        bad = np.array([int(p) in self._positions for p in positions], dtype=np.bool_)
        if not bad.any():
            return positions
        good = positions[~bad]
        if not keep_length:
            return good
        if not len(good):
            raise DataError(
                f"all {len(positions)} images of a batch are damaged. Check the data set."
            )
        return np.where(bad, good[0], positions)


class ScheduledLoader:
    """A `Loader` over any executor: it owns the position, the queue and the mixing."""

    def __init__(
        self,
        executor: Executor,
        schedule: Schedule,
        plan: Plan,
        labels: NDArray[np.int64],
        quarantine: Quarantine,
        device: Device,
    ) -> None:
        self.batch_size = schedule.batch_size
        self.num_samples = schedule.num_samples
        self._executor = executor
        self._schedule = schedule
        self._plan = plan
        self._labels = labels
        self._quarantine = quarantine
        self._device = torch.device(str(device))
        self._epoch = 0
        self._number = 0
        """Batches of this epoch that were handed over."""
        self._running: Generator[Batch, None, None] | None = None

    def __len__(self) -> int:
        """Return the number of batches of one epoch."""
        return self._schedule.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch; the next call starts the next one."""
        if self._running is not None:
            self._running.close()
            if self._number:
                self._epoch, self._number = self._epoch + 1, 0
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
        epoch = self._epoch
        order = self._schedule.order(epoch)
        ahead = iter(range(self._number, len(self)))
        queue: deque[tuple[int, NDArray[np.int64]]] = deque()
        try:
            while True:
                while len(queue) < self._executor.depth and (number := next(ahead, -1)) >= 0:
                    self._submit(queue, epoch, number, self._schedule.batch(order, number))
                if not queue:
                    break
                try:
                    images = self._executor.collect()
                except DamagedImage as damaged:
                    self._quarantine.add(damaged)
                    self._submit_again(queue, epoch)
                    continue
                number, positions = queue.popleft()
                batch = self._finish(images, positions, epoch, number)
                self._epoch, self._number = divmod_epoch(epoch, number + 1, len(self))
                yield batch
        finally:
            self._executor.drain()

    def _submit(
        self,
        queue: deque[tuple[int, NDArray[np.int64]]],
        epoch: int,
        number: int,
        positions: NDArray[np.int64],
    ) -> None:
        mended = self._quarantine.mend(positions, keep_length=self._schedule.train)
        if len(mended):
            queue.append((number, mended))
            self._executor.submit(mended, self._schedule.key(epoch, number))

    def _submit_again(self, queue: deque[tuple[int, NDArray[np.int64]]], epoch: int) -> None:
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
        if self._plan.mixing:
            key = (*self._schedule.key(epoch, number), 2)
            images, mix = mix_batch(images, self._plan.mixing, key)
        index = torch.from_numpy(positions).to(self._device)
        targets = torch.from_numpy(self._labels[positions]).to(self._device)
        return Batch(images=images, targets=targets, index=index, mix=mix)


def divmod_epoch(epoch: int, number: int, length: int) -> tuple[int, int]:
    """Return the position in its normal form: after the last batch stands the next epoch."""
    return (epoch + 1, 0) if number == length else (epoch, number)
