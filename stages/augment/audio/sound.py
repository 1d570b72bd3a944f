"""Sound: reads audio files through libsndfile, which DALI's decoder uses as well."""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile
from numpy.typing import NDArray

from stages.augment.audio.resample import Wave

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")
DECODE_ERRORS = (soundfile.SoundFileError, OSError, ValueError, struct.error, MemoryError)
"""What is raised for a file that cannot be read."""


class Sound:
    """One decoded file."""

    def __init__(self, encoded: bytes) -> None:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            self.format: str = file.format
            self.sample_rate: int = file.samplerate
            self.promised_frames: int = file.frames
            """What the header states."""
            self.channels: NDArray[np.float32] = file.read(
                dtype="float32", always_2d=True
            )  # (T, C)

    @property
    def mono(self) -> Wave:
        """The mean of the channels: (T,)."""
        mean: Wave = self.channels.mean(axis=1, dtype=np.float32)
        return mean

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.channels) / self.sample_rate


def missing_wav_bytes(encoded: bytes) -> int:
    """Return how many bytes of sound a WAV file states and does not have.

    libsndfile reads what is there and keeps silent about the rest.
    """
    if encoded[:4] != b"RIFF" or encoded[8:12] != b"WAVE":
        return 0
    start = 12
    while start + 8 <= len(encoded):
        name, size = struct.unpack_from("<4sI", encoded, start)
        if name == b"data":
            unknown = size in (0, 0xFFFFFFFF)  # written to a pipe
            return 0 if unknown else max(0, start + 8 + size - len(encoded))
        start += 8 + size + size % 2
    return 0
