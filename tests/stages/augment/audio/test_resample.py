"""Resampling: what passes, what must not, and that DALI's arithmetic is met."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from stages.augment.audio.resample import QUALITY, resample_wave


def tone(hz: float, rate: int) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hz * np.arange(rate // 2) / rate).astype(np.float32)


def level(wave: NDArray[np.float32]) -> float:
    inside = wave[len(wave) // 8 : -len(wave) // 8]
    return float(np.sqrt(2 * np.mean(inside**2)))


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_a_lower_rate_keeps_what_it_can_hold_and_nothing_else(rate: int) -> None:
    assert abs(level(resample_wave(tone(3_000, rate), rate, 16_000)) - 1) < 0.01
    assert level(resample_wave(tone(10_000, rate), rate, 16_000)) < 0.01


def test_without_a_filter_dali_brings_a_high_tone_back_at_full_strength() -> None:
    high = tone(12_000, 44_100)
    assert level(by_dali(high, 44_100, 16_000)) > 0.95
    assert level(resample_wave(high, 44_100, 16_000)) < 0.01


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 15_999])
def test_a_higher_rate_is_dali_s_to_the_last_bits(rate: int) -> None:
    wave = np.random.default_rng(rate).standard_normal(5_000).astype(np.float32)
    expected, found = by_dali(wave, rate, 16_000), resample_wave(wave, rate, 16_000)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


def test_the_same_rate_changes_nothing() -> None:
    wave = tone(500, 16_000)
    assert resample_wave(wave, 16_000, 16_000) is wave


@pytest.mark.parametrize("length", [1, 2, 37, 257])
def test_clips_of_any_length_come_out_in_proportion(length: int) -> None:
    wave = np.ones(length, dtype=np.float32)
    assert len(resample_wave(wave, 44_100, 16_000)) == int(np.ceil(length * 16_000 / 44_100))


def by_dali(wave: NDArray[np.float32], rate: float, new_rate: float) -> NDArray[np.float32]:
    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph() -> object:
        given = fn.external_source(name="wave", ndim=1, dtype=types.FLOAT)
        return fn.audio_resample(given, in_rate=rate, out_rate=new_rate, quality=QUALITY)

    pipeline = graph()
    pipeline.build()
    (resampled,) = pipeline.run(wave=[wave])
    return np.array(resampled.at(0))
