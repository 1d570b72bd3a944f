"""AudioFeatures: how a clip becomes a log-mel spectrogram, the same in training and in serving.

    clip -> mono at `sample_rate` -> `seconds` of it -> power spectrum in windows -> `mels` bands
         -> decibels from `floor_db` to 0 -> uint8 (mels, frames, 1), low bands at the bottom

0 dB is a sine at full scale. With the default floor a step of uint8 is 80 / 255 = 0.31 dB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from pipeline.stage import StageConfig

if TYPE_CHECKING:  # a configuration is read without numpy
    import numpy as np
    from numpy.typing import NDArray

_MIN_FRAMES = 8
LEVELS = 255.0


class AudioFeatures(StageConfig):
    """The spectrogram that stands for a clip."""

    sample_rate: int = Field(default=16_000, ge=4_000, le=96_000)
    """Hz; clips of any other rate are filtered and resampled, and channels are averaged."""
    seconds: float = Field(default=1.0, gt=0.0, le=60.0)
    """Of each clip: the middle of longer ones, shorter ones with silence on both sides."""
    mels: int = Field(default=64, ge=8, le=256)
    """Bands, evenly spaced on the mel scale: the height of the spectrogram."""
    window_ms: float = Field(default=25.0, ge=2.0, le=200.0)
    """Length of the Hann window that each spectrum is taken from."""
    hop_ms: float = Field(default=10.0, ge=1.0, le=200.0)
    """Time from one spectrum to the next."""
    low_hz: float = Field(default=20.0, ge=0.0)
    """Lower end of the lowest band."""
    high_hz: float | None = None
    """Upper end of the highest band; left out: half the sample rate."""
    floor_db: float = Field(default=-80.0, ge=-120.0, le=-20.0)
    """What is quieter counts as silence and becomes 0; 255 is 0 dB, a sine at full scale."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        half = self.sample_rate / 2
        if not self.low_hz < self.top_hz <= half:
            raise ValueError(
                f"bands from low_hz {self.low_hz:g} to high_hz {self.top_hz:g}: allowed is a "
                f"rising range up to half the sample rate, {half:g}. Lower high_hz or low_hz."
            )
        if self.frames < _MIN_FRAMES:
            raise ValueError(
                f"{self.seconds:g} s with a spectrum every {self.hop_ms:g} ms make {self.frames} "
                f"frames; at least {_MIN_FRAMES} are needed. Lower hop_ms or raise seconds."
            )
        empty = int((self.bands().sum(axis=1) == 0).sum())
        if empty:
            raise ValueError(
                f"{empty} of {self.mels} bands are narrower than the {self.bin_hz:.1f} Hz between "
                "two lines of the spectrum and would be empty. Lower mels, or raise window_ms."
            )
        return self

    @property
    def top_hz(self) -> float:
        """Upper end of the highest band."""
        return self.sample_rate / 2 if self.high_hz is None else self.high_hz

    @property
    def num_samples(self) -> int:
        """Samples of a clip that has been cut or padded."""
        return round(self.seconds * self.sample_rate)

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.window_ms * self.sample_rate / 1000)

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return max(1, round(self.hop_ms * self.sample_rate / 1000))

    @property
    def fft(self) -> int:
        """Length of the Fourier transform: the window, filled up to a power of two."""
        return 1 << (self.window - 1).bit_length()

    @property
    def bin_hz(self) -> float:
        """Distance between two lines of the spectrum."""
        return self.sample_rate / self.fft

    @property
    def frames(self) -> int:
        """Spectra of a clip: the width of the spectrogram. Windows are centred on 0, hop, ..."""
        return self.num_samples // self.hop + 1

    @property
    def full_scale(self) -> float:
        """The power that a sine of amplitude 1 has in its line of the spectrum: 0 dB."""
        return float((self.hann().sum(dtype="float64") / 2) ** 2)

    def hann(self) -> NDArray[np.float32]:
        """Return the window: (window,)."""
        import numpy as np

        return np.hanning(self.window + 1)[:-1].astype(np.float32)

    def bands(self) -> NDArray[np.float32]:
        """Return the weight of each line in each band: (mels, fft // 2 + 1), triangles of height 1.

        The mel scale is that of HTK: 1127 ln(1 + f / 700).
        """
        import numpy as np

        low_mel, top_mel = (1127 * np.log1p(hz / 700) for hz in (self.low_hz, self.top_hz))
        edges = 700 * np.expm1(np.linspace(low_mel, top_mel, self.mels + 2) / 1127)  # Hz
        lines = np.arange(self.fft // 2 + 1) * self.bin_hz
        low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        rising, falling = (lines - low) / (middle - low), (high - lines) / (high - middle)
        bands: NDArray[np.float32] = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
        return bands
