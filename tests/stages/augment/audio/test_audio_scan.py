"""Damaged audio files are found before training, and named with their damage."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.augment.audio.scan import check_sound

NOISE = (np.random.default_rng(0).standard_normal(4_000) * 0.1).astype(np.float32)


def encode(samples: np.ndarray = NOISE, rate: int = 16_000, **options: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", **options})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "WAV"), ({"subtype": "PCM_U8"}, "WAV"), ({"subtype": "FLOAT"}, "WAV"),
        ({"subtype": "PCM_24"}, "WAV"), ({"format": "WAVEX"}, "WAVEX"),
        ({"format": "FLAC"}, "FLAC"), ({"format": "OGG"}, "OGG"),
    ],
)  # fmt: skip
def test_sound_files_are_described(options: dict[str, str], kind: str) -> None:
    found = check_sound(encode(np.stack([NOISE, NOISE], 1), 22_050, **options))
    assert (found.problem, found.kind, found.mode) == ("", kind, "stereo")
    assert (found.sample_rate, round(found.seconds, 3)) == (22_050, round(4_000 / 22_050, 3))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cannot be decoded"),
        (b"not a sound at all", "cannot be decoded"),
        (encode()[:30], "cannot be decoded|holds no sound"),
        (encode()[:-2_000], "is truncated: 2,000 bytes"),
        (encode(format="FLAC")[:-2_000], "is truncated|cannot be decoded"),
        (encode(NOISE[:0]), "holds no sound"),
        (encode(format="AIFF"), "is a AIFF file; allowed are WAV"),
        (encode(rate=1_000), "has 1,000 Hz; allowed are 4,000 to 192,000"),
        (encode(np.full(50, np.nan, np.float32), subtype="FLOAT"), "no numbers"),
        (encode(np.zeros(4_000 * 601, np.float32), 4_000, subtype="PCM_U8"), "lasts 601 s"),
    ],
)
def test_damage_is_named(data: bytes, problem: str) -> None:
    import re

    assert re.search(problem, check_sound(data).problem)


def test_a_wav_written_to_a_pipe_is_whole() -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2_000))
    data = bytearray(buffer.getvalue())
    data[40:44] = b"\xff\xff\xff\xff"
    assert check_sound(bytes(data)).problem == ""


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["WAV", "FLAC", "OGG"]), st.data())
def test_no_bytes_make_the_scan_raise(format: str, data: st.DataObject) -> None:
    encoded = bytearray(encode(NOISE[:600], format=format))
    for _ in range(data.draw(st.integers(1, 8))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    check_sound(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))
