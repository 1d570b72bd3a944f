"""Resampling of clips in numpy, the arithmetic of DALI's resampler with a low-pass in front of it.

DALI's own resampler does not filter: a tone of 12 kHz comes back from 44.1 kHz -> 16 kHz at full
strength, as one of 4 kHz. So both backends filter first whenever the rate goes down.

Shapes: T samples, B blocks of `_BLOCK` positions, K taps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]  # (T,)

REACH = 96
"""Samples that the low-pass looks at on either side."""
PASS_SHARE = 0.95
"""Of the new half rate that passes; above it the filter falls off."""
QUALITY = 50.0
"""DALI's scale of 0 to 100; it stands for 16 zero crossings of the sinc on either side."""
_LOBES = 16
_PER_LOBE = 32
_BLOCK = 256
"""DALI adds up positions in float32, anew for each block of this many."""


def low_pass_taps() -> tuple[Wave, Wave]:
    """Return the taps' places -REACH..REACH, and the Hann window over them."""
    place = np.arange(-REACH, REACH + 1)
    hann = 0.5 + 0.5 * np.cos(np.pi * place / (REACH + 1))
    return place.astype(np.float32), hann.astype(np.float32)


def low_pass(wave: Wave, cutoff: float) -> Wave:
    """Keep what lies below `cutoff`, a share of half the wave's rate."""
    place, hann = low_pass_taps()
    taps = np.float32(cutoff) * np.sinc(np.float32(cutoff) * place) * hann
    padded = np.pad(wave, REACH)
    return np.convolve(padded, taps.astype(np.float32), mode="valid").astype(np.float32)


def resample_wave(wave: Wave, rate: float, new_rate: float) -> Wave:
    """Return the wave at another rate; one that has it already comes back as it is."""
    rate, new_rate = float(np.float32(rate)), float(np.float32(new_rate))
    if rate == new_rate:
        return wave
    if rate > new_rate:
        wave = low_pass(wave, PASS_SHARE * new_rate / rate)
    return _interpolate(wave, rate / new_rate, int(np.ceil(len(wave) * new_rate / rate)))


def _interpolate(wave: Wave, step: float, length: int) -> Wave:
    """Read the wave at 0, step, 2 step, ... through a windowed sinc (DALI's resampling_cpu.cc)."""
    starts = np.arange(0, length, _BLOCK) * step
    first = np.floor(starts).astype(np.int64)  # (B,)
    steps = np.full((len(starts), _BLOCK), step, dtype=np.float32)
    steps[:, 0] = starts - first
    position = np.cumsum(steps, axis=1, dtype=np.float32)  # (B, _BLOCK), from `first`
    lowest = np.ceil(position).astype(np.int64) - _LOBES
    highest = np.floor(position).astype(np.int64) + _LOBES
    tap = lowest[..., None] + np.arange(2 * _LOBES + 1)  # (B, _BLOCK, K)
    weight = _sinc(tap.astype(np.float32) - position[..., None])
    weight[tap > highest[..., None]] = 0
    margin = _LOBES + 1
    padded = np.pad(wave, (margin, margin + int(_BLOCK * (step + 1))))
    source = padded[tap + first[:, None, None] + margin]
    values: Wave = np.einsum("bpk,bpk->bp", source, weight).reshape(-1)[:length]
    return values


def _sinc(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Look up the Hann-windowed sinc, linearly between the entries of DALI's table."""
    half = _LOBES * _PER_LOBE
    offset = np.arange(-half, half + 1)
    table = np.zeros(2 * half + 3, dtype=np.float32)
    envelope = 0.5 * (1 + np.cos(np.pi * offset * 2 / (2 * half + 1)))
    table[1:-1] = np.sinc(offset / _PER_LOBE) * envelope
    place = distance * np.float32(_PER_LOBE) + np.float32(half + 1)
    entry = np.clip(np.floor(place).astype(np.int64), 0, 2 * half + 1)
    low = table[entry]
    between: NDArray[np.float32] = low + (place - entry.astype(np.float32)) * (
        table[entry + 1] - low
    )
    return between
