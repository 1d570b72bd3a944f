"""The soundfile backend: clips are decoded on threads, their spectrograms made a batch at a time.

It computes what the DALI graph computes, so a model trained with one can be served with the other.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.device import Device
from stages.augment.audio.plan import AudioDraws, AudioPlan, draw_audio
from stages.augment.audio.resample import Wave, resample_wave
from stages.augment.audio.sound import DECODE_ERRORS, Sound
from stages.augment.audio.spectrogram import LogMel
from stages.augment.damage import DamagedClip, DamagedSample
from stages.augment.pixels import erase
from stages.augment.reader import FileReader


class SoundfileExecutor:
    """Transforms batches of one split."""

    depth = 2

    def __init__(self, reader: FileReader, plan: AudioPlan, device: Device, threads: int) -> None:
        self._reader = reader
        self._plan = plan
        self._device = torch.device(str(device))
        self._log_mel = LogMel(plan.features, self._device)
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._waiting: deque[tuple[list[Future[Wave]], AudioDraws]] = deque()

    def submit(self, positions: NDArray[np.int64], key: Sequence[int]) -> None:
        """Put a batch into the queue."""
        drawn = draw_audio(self._plan, len(positions), key)
        waves = [
            self._decoding.submit(self._wave, int(position), drawn, row)
            for row, position in enumerate(positions)
        ]
        self._waiting.append((waves, drawn))

    def collect(self) -> torch.Tensor:
        """Return the spectrograms (N, H, W, 1) of the oldest batch in the queue."""
        futures, drawn = self._waiting.popleft()
        waves = torch.from_numpy(np.stack([future.result() for future in futures]))
        numbers = {name: torch.from_numpy(values) for name, values in drawn.items()}
        if "gain" in numbers:
            waves = waves * numbers["gain"][:, None]
        if "noise" in numbers:
            level = waves.square().mean(dim=1, keepdim=True).sqrt()
            waves = waves + numbers["noise"] * (level * numbers["noise_level"][:, None])
        images = self._log_mel(waves.to(self._device))
        return silence(images, drawn) if "mask_anchor" in drawn else images

    def drain(self) -> None:
        """Forget what is in the queue."""
        while self._waiting:
            for wave in self._waiting.popleft()[0]:
                wave.cancel()

    def close(self) -> None:
        """Stop the threads."""
        self.drain()
        self._decoding.shutdown()

    def _wave(self, position: int, drawn: AudioDraws, row: int) -> Wave:
        """Return one clip as the spectrogram takes it: (num_samples,)."""
        try:
            sound = Sound(self._reader.read(position))
        except DECODE_ERRORS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DamagedClip(position, self._reader.name(position), reason) from error
        features = self._plan.features
        rate = np.float32(sound.sample_rate)
        if "speed" in drawn:
            rate = rate * drawn["speed"][row]
        wave = resample_wave(sound.mono, float(rate), features.sample_rate)
        place = drawn["place"][row] if "place" in drawn else np.float32(0.5)
        shift = drawn["shift"][row] if "shift" in drawn else np.float32(0)
        return cut(wave, features.num_samples, place, shift)


def cut(wave: Wave, length: int, place: np.float32, shift: np.float32) -> Wave:
    """Take `length` samples; what lies outside the wave is silence.

    Args:
        wave: the clip.
        length: how much to take.
        place: 0 for its first part, 0.5 for the middle, 1 for the last.
        shift: samples by which the sound then comes later.
    """
    spare = np.float32(len(wave) - length)
    start = int(np.floor(spare * place + np.float32(0.5)) - shift)
    result = np.zeros(length, dtype=np.float32)
    first, last = max(0, -start), min(length, len(wave) - start)
    if first < last:
        result[first:last] = wave[start + first : start + last]
    return result


def silence(images: torch.Tensor, drawn: AudioDraws) -> torch.Tensor:
    """Set the masks' rows and columns to 0."""
    anchors, shapes = drawn["mask_anchor"], drawn["mask_shape"]  # (N, 2 M) row, column, ...
    for first in range(0, anchors.shape[1], 2):
        corner, size = anchors[:, first : first + 2], shapes[:, first : first + 2]
        images = erase(images, np.hstack([corner[:, ::-1], size[:, ::-1]]))
    return images


def open_executor(
    reader: FileReader,
    plan: AudioPlan,
    device: Device,
    batch_size: int,
    on_damaged: Callable[[DamagedSample], None],
) -> SoundfileExecutor:
    """Open this backend over one split."""
    return SoundfileExecutor(reader, plan, device, threads=min(4, os.cpu_count() or 1))
