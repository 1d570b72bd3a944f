"""Keywords: ten short words from synthetic voices, written out once as a folder of WAV files.

No recording is used. A voice is a pitch and a length of the vocal tract; a word is a chain of
sounds, each a few resonances (formants) of a buzz or of noise, after Klatt, "Software for a
cascade/parallel formant synthesizer" (1980), done frame by frame in the frequency domain. Easier
than real speech: figures measured on it say "synthetic".

    keywords/train/yes/v07_1.wav      voices of eval are not heard in train
"""

from __future__ import annotations

import os
import shutil
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KEYWORDS_NAME = "keywords (synthetic voices)"
RATE = 16_000
NUM_SAMPLES = 16_000
VOICES = {"train": 36, "eval": 12}
TAKES = 3
_FRAME, _HOP = 512, 128
_FREQUENCIES = np.arange(_FRAME // 2 + 1) * RATE / _FRAME


@dataclass(frozen=True, slots=True)
class Phone:
    """One sound of a word: what resonates, how long it lasts, and what excites it."""

    formants: tuple[float, float, float]
    """Hz, of an average voice."""
    seconds: float
    buzz: float = 1.0
    """Level of the vocal cords."""
    noise: float = 0.0
    """Level of the breath."""
    width: float = 90.0
    """Hz of a resonance; noise of fricatives is broad."""


_A, _E, _I, _O, _U = (
    (750, 1250, 2550), (550, 1800, 2500), (300, 2250, 3000), (500, 900, 2450), (320, 850, 2250)
)  # fmt: skip


def _vowel(formants: tuple[float, float, float], seconds: float = 0.16) -> Phone:
    return Phone(formants, seconds)


def _hiss(centre: float, seconds: float, level: float = 0.25) -> Phone:
    return Phone((centre, 1.4 * centre, 1.8 * centre), seconds, 0.0, level, 900.0)


_PAUSE = Phone((500, 1500, 2500), 0.06, 0.0, 0.0)
_N = Phone((280, 1300, 2300), 0.10, 0.35)
_L = Phone((360, 1100, 2700), 0.08, 0.6)
_R = Phone((420, 1150, 1600), 0.08, 0.6)
_Y = Phone((280, 2200, 2900), 0.07, 0.7)
_S, _F, _T = _hiss(4800, 0.16), _hiss(2600, 0.14, 0.10), _hiss(3700, 0.04, 0.30)
_P, _G, _D = _hiss(900, 0.03, 0.30), _hiss(1700, 0.04, 0.25), _hiss(3000, 0.03, 0.25)

WORDS: dict[str, tuple[Phone, ...]] = {
    "down": (_D, _vowel(_A, 0.14), _vowel(_U, 0.10), _N),
    "go": (_G, _vowel(_O, 0.14), _vowel(_U, 0.12)),
    "left": (_L, _vowel(_E), _F, _PAUSE, _T),
    "no": (_N, _vowel(_O, 0.14), _vowel(_U, 0.12)),
    "off": (_vowel(_O, 0.20), _F),
    "on": (_vowel(_O, 0.20), _N),
    "right": (_R, _vowel(_A, 0.12), _vowel(_I, 0.10), _PAUSE, _T),
    "stop": (_S, _PAUSE, _T, _vowel(_O), _PAUSE, _P),
    "up": (_vowel(_A, 0.18), _PAUSE, _P),
    "yes": (_Y, _vowel(_E), _S),
}


@dataclass(frozen=True, slots=True)
class Voice:
    """What makes a speaker."""

    pitch: float
    """Hz."""
    tract: float
    """Factor on all formants: above 1 for a shorter vocal tract."""
    pace: float
    """Factor on all durations."""
    breath: float
    """Level of noise in voiced sounds."""


def write_keywords(folder: Path, seed: int) -> None:
    """Write ``train/<word>/*.wav`` and ``eval/<word>/*.wav`` into `folder`, once."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    parts = [part for part, voices in VOICES.items() for _ in range(voices)]
    for number, part in enumerate(parts):
        voice = _draw_voice(np.random.default_rng([seed, number]))
        for label, (word, phones) in enumerate(WORDS.items()):
            for take in range(TAKES):
                path = partial / part / word / f"v{number:02d}_{take}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                rng = np.random.default_rng([seed, number, label, take])
                write_wav(path, speak(phones, voice, rng))
    os.replace(partial, folder)


def write_wav(path: Path, samples: NDArray[np.float64]) -> None:
    """Write samples from -1 to 1 as 16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def speak(word: tuple[Phone, ...], voice: Voice, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return one take of a word, in a second of room noise: (NUM_SAMPLES,)."""
    pace = voice.pace * rng.uniform(0.85, 1.2)
    seconds = np.array([phone.seconds * pace * rng.uniform(0.75, 1.3) for phone in word])
    frames = max(8, round(seconds.sum() * RATE / _HOP))
    buzz, noise = _envelopes(word, seconds, frames, voice, rng)
    length = (frames - 1) * _HOP + _FRAME
    pitch = voice.pitch * np.linspace(rng.uniform(0.95, 1.2), rng.uniform(0.75, 1.0), length)
    pulses = np.diff(np.floor(np.cumsum(pitch / RATE)), prepend=0.0)
    breath = rng.standard_normal(length) * 0.1
    spoken = _filter(pulses, buzz) + _filter(breath, noise + voice.breath * buzz)
    spoken *= 10 ** (rng.uniform(-16, -4) / 20) / max(1e-9, float(np.abs(spoken).max()))
    clip = _room(rng) * float(np.sqrt(np.mean(spoken**2))) * 10 ** (-rng.uniform(-8, 16) / 20)
    spoken = spoken[:NUM_SAMPLES]
    start = int(rng.integers(0, NUM_SAMPLES - len(spoken) + 1))
    clip[start : start + len(spoken)] += spoken
    return clip


def _draw_voice(rng: np.random.Generator) -> Voice:
    high = rng.random() < 0.5
    pitch, tract = (rng.uniform(160, 270), rng.uniform(1.0, 1.25)) if high else (
        rng.uniform(85, 150), rng.uniform(0.85, 1.05)
    )  # fmt: skip
    return Voice(pitch, tract, rng.uniform(0.85, 1.25), rng.uniform(0.02, 0.15))


def _envelopes(
    word: tuple[Phone, ...],
    seconds: NDArray[np.float64],
    frames: int,
    voice: Voice,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the gain of buzz and of noise at each frequency: (frames, lines) each."""
    middles = np.cumsum(seconds) - seconds / 2
    now = np.linspace(0, seconds.sum(), frames)
    formants = np.array([p.formants for p in word]) * voice.tract
    formants = formants * rng.uniform(0.93, 1.07, formants.shape)
    tracks = np.stack([np.interp(now, middles, column) for column in formants.T], axis=1)
    width = np.interp(now, middles, [p.width for p in word])
    sound = np.searchsorted(np.cumsum(seconds)[:-1], now)  # which phone it is; levels change fast
    ease = np.ones(3) / 3
    buzz = np.convolve(np.array([p.buzz for p in word])[sound], ease, mode="same")
    noise = np.convolve(np.array([p.noise for p in word])[sound], ease, mode="same")
    distance = (_FREQUENCIES - tracks[:, :, None]) / width[:, None, None]  # (frames, 3, lines)
    strength = np.array([1.0, 0.6, 0.3])[:, None]
    resonance = (strength / (1 + distance**2)).sum(axis=1)
    tilt = 1 / (1 + _FREQUENCIES / 800)
    return buzz[:, None] * resonance * tilt, noise[:, None] * resonance


def _filter(source: NDArray[np.float64], gain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape a source by a gain that changes from frame to frame, by overlap-add."""
    window = np.hanning(_FRAME + 1)[:-1]
    frames, parts = len(gain), _FRAME // _HOP
    pieces = np.lib.stride_tricks.sliding_window_view(source, _FRAME)[::_HOP] * window
    shaped = np.fft.irfft(np.fft.rfft(pieces) * gain, n=_FRAME) * window
    by_hop = shaped.reshape(frames, parts, _HOP)
    result = np.zeros((frames + parts - 1, _HOP))
    for part in range(parts):
        result[part : part + frames] += by_hop[:, part]
    return result.reshape(-1)


def _room(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise of level 1 whose spectrum falls by a random slope: (NUM_SAMPLES,)."""
    lines = np.fft.rfft(rng.standard_normal(NUM_SAMPLES))
    lines *= (1 + np.arange(len(lines)) / 200) ** -rng.uniform(0, 1.2)
    noise = np.fft.irfft(lines, n=NUM_SAMPLES)
    level: NDArray[np.float64] = noise / noise.std()
    return level
