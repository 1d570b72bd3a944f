"""What may be said of spectrograms, and what a spectrogram is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.augment.audio.features import AudioFeatures
from stages.augment.audio.spectrogram import LogMel

CPU = torch.device("cpu")


def sine(features: AudioFeatures, hz: float, amplitude: float = 1.0) -> torch.Tensor:
    time = torch.arange(features.num_samples) / features.sample_rate
    return amplitude * torch.sin(2 * torch.pi * hz * time)[None]


def test_a_clip_of_a_second_has_a_spectrum_every_hop() -> None:
    features = AudioFeatures()
    assert (features.num_samples, features.window, features.hop, features.fft) == (
        16_000, 400, 160, 512,
    )  # fmt: skip
    assert LogMel(features, CPU)(torch.zeros(3, 16_000)).shape == (3, 64, 101, 1)


@settings(deadline=None)
@given(st.floats(300, 6000), st.floats(-30, 0))
def test_a_sine_shows_at_its_band_with_its_level(hz: float, level: float) -> None:
    features = AudioFeatures(mels=32, seconds=0.3)
    decibels = LogMel(features, CPU).decibels(sine(features, hz, 10 ** (level / 20)))
    middle = decibels[0, :, features.frames // 2]
    weights = features.bands()[:, round(hz / features.bin_hz)]
    assert weights[int(middle.argmax())] > 0.3
    assert abs(float(middle.max()) - level) < 4


def test_silence_is_0_full_scale_255_and_low_bands_lie_at_the_bottom() -> None:
    features = AudioFeatures(mels=32)
    pictures = LogMel(features, CPU)(torch.cat([torch.zeros(1, 16_000), sine(features, 1000)]))
    assert pictures[0].max() == 0
    column = pictures[1, :, 50, 0]
    assert column.max() >= 250
    assert column.argmax() > 16
    assert LogMel(features, CPU)(sine(features, 6000))[0, :, 50, 0].argmax() < 8


def test_bands_cover_every_line_between_their_ends() -> None:
    features = AudioFeatures(low_hz=100, high_hz=7000)
    covered = features.bands().sum(axis=0)
    lines = np.arange(len(covered)) * features.bin_hz
    assert (covered[(lines > 200) & (lines < 6900)] > 0).all()
    assert (covered[(lines <= 100) | (lines >= 7000)] < 1e-6).all()


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"mels": 128}, "bands are narrower than the 31.2 Hz.*Lower mels, or raise window_ms"),
        ({"high_hz": 9000.0}, "up to half the sample rate, 8000"),
        ({"low_hz": 5000.0, "high_hz": 4000.0}, "low_hz 5000 to high_hz 4000"),
        ({"seconds": 0.05}, "make 6 frames; at least 8"),
        ({"sample_rate": 100}, "greater than or equal to 4000"),
        ({"mel": 40}, "Extra inputs"),
    ],
)
def test_what_cannot_be_a_spectrogram_is_explained(features: dict[str, float], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AudioFeatures.model_validate(features)
