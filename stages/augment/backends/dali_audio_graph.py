"""The DALI graph of an audio plan: encoded files to uint8 spectrograms, for loaders and servers.

Without operations the graph needs nothing but the files, so what is served is what eval sees.
"""

from __future__ import annotations

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from pipeline.device import Device
from stages.augment.audio.features import LEVELS, AudioFeatures
from stages.augment.audio.plan import AudioPlan, needed_draws
from stages.augment.audio.resample import PASS_SHARE, QUALITY, REACH, low_pass_taps
from stages.augment.backends.dali_build import build

ENCODED = "encoded"
_TINY = 1e-9
"""Keeps sin(x) / x away from 0 / 0 at the middle tap."""


def build_audio_pipeline(
    plan: AudioPlan, device: Device, batch_size: int, threads: int
) -> Pipeline:
    """Build the graph; its inputs are `ENCODED` and, by name, the draws that the plan needs."""
    features = plan.features

    def graph() -> DataNode:
        drawn = {
            name: fn.external_source(name=name, ndim=ndim, dtype=types.FLOAT)
            for name, ndim in needed_draws(plan).items()
        }
        encoded = fn.external_source(name=ENCODED, ndim=1, dtype=types.UINT8)
        wave, rate = fn.decoders.audio(encoded, downmix=True, dtype=types.FLOAT)
        if "speed" in drawn:
            rate = rate * drawn["speed"]
        if rate > features.sample_rate:
            wave = _low_pass(wave, PASS_SHARE * features.sample_rate / rate)
        if rate != features.sample_rate:
            wave = fn.audio_resample(
                wave, in_rate=rate, out_rate=float(features.sample_rate), quality=QUALITY
            )
        wave = _cut(wave, features, drawn)
        if device.is_cuda:
            wave = wave.gpu()
        if "gain" in drawn:
            wave = wave * drawn["gain"]
        if "noise" in drawn:
            level = fn.reductions.rms(wave) * drawn["noise_level"]
            wave = wave + drawn["noise"] * level
        images = _picture(wave, features)
        if "mask_anchor" in drawn:
            images = fn.erase(
                images,
                anchor=drawn["mask_anchor"],
                shape=drawn["mask_shape"],
                axis_names="HW",
            )
        return images

    return build(graph, device, batch_size, threads, conditionals=True)


def _low_pass(wave: DataNode, cutoff: DataNode) -> DataNode:
    """Filter with a Hann-windowed sinc; `cutoff` is a share of half the wave's rate."""
    place, hann = low_pass_taps()
    phase = types.Constant(np.pi * place + np.float32(_TINY)) * cutoff
    taps = cutoff * math.sin(phase) / phase * types.Constant(hann)
    row = fn.reshape(wave, shape=[1, -1], layout="HW")
    filtered = fn.filter(
        row, fn.reshape(taps, shape=[1, 2 * REACH + 1]), np.float32(0), border="constant"
    )
    return fn.reshape(filtered, shape=[-1])


def _cut(wave: DataNode, features: AudioFeatures, drawn: dict[str, DataNode]) -> DataNode:
    """Take the middle or another part; what lies outside the clip is silence."""
    spare = fn.cast(wave.shape()[0], dtype=types.FLOAT) - float(features.num_samples)
    start = math.floor(spare * drawn.get("place", 0.5) + 0.5)
    if "shift" in drawn:
        start = start - drawn["shift"]
    return fn.slice(
        wave,
        fn.cast(start, dtype=types.INT32),
        features.num_samples,
        axes=[0],
        out_of_bounds_policy="pad",
        fill_values=0,
    )


def _picture(wave: DataNode, features: AudioFeatures) -> DataNode:
    """Return uint8 (mels, frames, 1), the lowest band at the bottom."""
    power = fn.spectrogram(
        wave,
        nfft=features.fft,
        window_length=features.window,
        window_step=features.hop,
        window_fn=features.hann().tolist(),
        center_windows=True,
        reflect_padding=False,
    )
    bands = fn.mel_filter_bank(
        power,
        sample_rate=float(features.sample_rate),
        nfilter=features.mels,
        freq_low=features.low_hz,
        freq_high=features.top_hz,
        mel_formula="htk",
        normalize=False,
    )
    floor = features.floor_db
    decibels = fn.to_decibels(
        bands, multiplier=10.0, reference=features.full_scale, cutoff_db=floor
    )
    levels = fn.cast((decibels - floor) * (LEVELS / -floor), dtype=types.UINT8)
    images = fn.reshape(fn.expand_dims(levels, axes=[2]), layout="HWC")
    return fn.flip(images, horizontal=0, vertical=1)
