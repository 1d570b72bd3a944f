"""The dali-cpu and dali-gpu backends for clips: DALI decodes, resamples and makes spectrograms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from nvidia.dali.pipeline import Pipeline

from pipeline.device import Device
from stages.augment.audio.plan import AudioPlan, draw_audio, make_audio_plan
from stages.augment.backends.dali import DaliExecutor, GraphRunner, first_reason
from stages.augment.backends.dali_audio_graph import ENCODED, build_audio_pipeline
from stages.augment.backends.dali_graph import Inputs
from stages.augment.damage import DamagedClip, DamagedSample
from stages.augment.reader import FileReader


class ClipFeed:
    """Feeds audio files."""

    def __init__(self, reader: FileReader, plan: AudioPlan, device: Device) -> None:
        self._reader = reader
        self._plan = plan
        self._device = device

    def read(self, positions: NDArray[np.int64], key: Sequence[int]) -> Inputs:
        """Return files and random numbers of a batch."""
        files = [self._read_file(int(position)) for position in positions]
        drawn = draw_audio(self._plan, len(files), key)
        return {ENCODED: files, **drawn}

    def build(self, batch_size: int, threads: int) -> Pipeline:
        """Build the graph."""
        return build_audio_pipeline(self._plan, self._device, batch_size, threads)

    def culprit(self, positions: NDArray[np.int64], batch: Inputs) -> DamagedSample | None:
        """Decode a failed batch clip by clip: DALI does not always say which one it was."""
        decode_only = make_audio_plan(self._plan.features, ())
        for position, file in zip(positions, batch[ENCODED], strict=True):
            try:
                GraphRunner(build_audio_pipeline(decode_only, self._device, 1, 1))(
                    {ENCODED: [file]}
                )
            except RuntimeError as reason:
                return self._damaged(int(position), first_reason(reason))
        return None

    def _read_file(self, position: int) -> NDArray[np.uint8]:
        try:
            return np.frombuffer(self._reader.read(position), dtype=np.uint8)
        except OSError as error:
            raise self._damaged(position, str(error)) from error

    def _damaged(self, position: int, reason: str) -> DamagedClip:
        return DamagedClip(position, self._reader.name(position), reason)


def open_executor(
    reader: FileReader,
    plan: AudioPlan,
    device: Device,
    batch_size: int,
    on_damaged: Callable[[DamagedSample], None],
) -> DaliExecutor:
    """Open this backend over one split."""
    return DaliExecutor(ClipFeed(reader, plan, device), batch_size, device)
