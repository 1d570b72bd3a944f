"""Loader: opens a split of a `DataSpec`. The one door through which other stages read data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import DataSpec, Kind
from pipeline.backend import select
from pipeline.device import CPU, Device
from pipeline.errors import DataError
from stages.augment.audio.plan import AudioPlan, make_audio_plan
from stages.augment.backends import backends_for
from stages.augment.bad_files import BadFiles, OnError
from stages.augment.batch import Batch, Inputs, Loader, Mix, fill_up, join_batches
from stages.augment.executor import Executor, MeasuresLength
from stages.augment.plan import Plan, make_plan
from stages.augment.reader import AnyReader, BytesReader, TextReader, open_reader
from stages.augment.schedule import Schedule
from stages.augment.scheduled import ScheduledLoader
from stages.augment.spec import TransformSpec
from stages.augment.text.plan import TextPlan, make_text_plan

__all__ = [
    "Batch", "Inputs", "Loader", "Mix", "fill_up", "join_batches", "open_loader",
    "preprocess_bytes", "preprocess_texts", "read_texts",
]  # fmt: skip

SplitName = Literal["train", "eval", "calibration"]


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
    on_error: OnError = "skip",
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
    plan = _plan(spec, split)
    reader = open_reader(spec, split)
    batch_size = batch_size or spec.batch_size
    bad_files = BadFiles(on_bad_file, on_error)
    schedule = Schedule(
        samples=len(reader.labels),
        batch_size=batch_size,
        train=split == "train",
        seed=seed,
        rank=shard[0],
        world=shard[1],
    )
    executor = _open_executor(
        spec.kind, backend or spec.backend, device, reader, plan, batch_size, bad_files
    )
    if schedule.train and isinstance(executor, MeasuresLength):
        schedule = replace(schedule, lengths=executor.lengths)
    return ScheduledLoader(executor, schedule, plan.mixing, reader.labels, bad_files, device)


def read_texts(spec: DataSpec, split: SplitName) -> list[tuple[str, ...]]:
    """Return the texts of a split, in manifest order, each of one part or two.

    Raises:
        DataError: the split cannot be read, or holds no texts.
    """
    reader = open_reader(spec, split)
    if not isinstance(reader, TextReader):
        raise DataError(f"{spec.name}: holds {spec.noun}s, and no texts.")
    return reader.texts


def preprocess_texts(spec: DataSpec, texts: Sequence[tuple[str, ...]]) -> NDArray[np.int32]:
    """Return the tokens (N, L) that texts become outside training.

    Args:
        spec: what the augment stage left.
        texts: each of as many parts as the data set's.

    Raises:
        DataError: the data set holds no texts, or others; or the tokenizer cannot split one.
    """
    plan = _plan(spec, "eval")
    if not isinstance(plan, TextPlan):
        raise DataError(f"{spec.name}: holds {spec.noun}s; use preprocess_bytes.")
    wrong = next((i for i, text in enumerate(texts) if len(text) != plan.tokens.parts), None)
    if wrong is not None:
        raise DataError(
            f"text {wrong}: has {len(texts[wrong])} parts. Allowed: {plan.tokens.parts}, as the "
            f"texts of {spec.name} have."
        )
    reader = TextReader(texts, np.zeros(len(texts), dtype=np.int64))
    executor = _open_executor(
        spec.kind, spec.backend, CPU, reader, plan, len(texts), BadFiles(None, "fail")
    )
    executor.submit(np.arange(len(texts)), (0,))
    return executor.collect().numpy()


def preprocess_bytes(
    spec: DataSpec,
    encoded: Sequence[bytes],
    *,
    backend: str | None = None,
    device: Device = CPU,
) -> NDArray[np.uint8]:
    """Return the pixels (N, H, W, C) that encoded files become through the eval transform.

    Args:
        spec: what the augment stage left.
        encoded: the content of image files, or of audio files.
        backend: defaults to the spec's.
        device: where the work is done.

    Raises:
        DataError: a file cannot be decoded; the message gives its number.
        BackendUnavailable: the backend cannot run here.
    """
    plan = _plan(spec, "eval")
    if isinstance(plan, TextPlan):
        raise DataError(f"{spec.name}: holds texts; use preprocess_texts.")
    if not encoded:
        return np.empty((0, plan.height, plan.width, plan.channels), dtype=np.uint8)
    executor = _open_executor(
        spec.kind,
        backend or spec.backend,
        device,
        BytesReader(encoded),
        plan,
        len(encoded),
        BadFiles(None, "fail"),
    )
    try:
        executor.submit(np.arange(len(encoded)), (0,))
        return executor.collect().cpu().numpy()
    finally:
        executor.close()


AnyPlan = Plan | AudioPlan | TextPlan


def _plan(spec: DataSpec, split: SplitName) -> AnyPlan:
    transforms = TransformSpec.load(spec.transforms)
    operations = transforms.train if split == "train" else transforms.eval
    if spec.tokens is not None:
        assert spec.preprocess is not None, "texts have a tokenizer"
        return make_text_plan(spec.preprocess, spec.tokens, operations)
    if transforms.audio is not None:
        return make_audio_plan(transforms.audio, operations)
    return make_plan(
        operations,
        height=spec.height,
        width=spec.width,
        channels=spec.channels,
    )


def _open_executor(
    kind: Kind,
    backend: str,
    device: Device,
    reader: AnyReader,
    plan: AnyPlan,
    batch_size: int,
    bad_files: BadFiles,
) -> Executor:
    backends = backends_for(kind)
    chosen = select(backends, backend, device, where="stages.augment.backend").backend
    executor: Executor = chosen.load().open_executor(
        reader, plan, device, batch_size, bad_files.add
    )
    return executor
