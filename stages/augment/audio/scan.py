"""Scan of clips: every file is read and decoded once before anything is trained on it."""

from __future__ import annotations

import hashlib

import numpy as np

from stages.augment.audio.sound import DECODE_ERRORS, FORMATS, Sound, missing_wav_bytes
from stages.augment.media import Media
from stages.augment.sources import Finding

MAX_SECONDS = 600.0
MAX_RATE, MIN_RATE = 192_000, 4_000
_LAYOUTS = {1: "mono", 2: "stereo"}


def check_sound(data: bytes) -> Finding:
    """Look at the bytes of one audio file: format, rate, length, and a full decode."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        sound = Sound(data)
    except DECODE_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding(sha256=digest, problem=f"cannot be decoded: {reason}")
    return Finding(
        sha256=digest,
        mode=_LAYOUTS.get(sound.channels.shape[1], f"{sound.channels.shape[1]} channels"),
        kind=sound.format,
        sample_rate=sound.sample_rate,
        seconds=sound.seconds,
        problem=_problem(sound, missing_wav_bytes(data)),
    )


def _problem(sound: Sound, missing_bytes: int) -> str:
    if sound.format not in FORMATS:
        return f"is a {sound.format} file; allowed are {', '.join(FORMATS)}"
    if not len(sound.channels):
        return "holds no sound (0 samples)"
    if missing_bytes:
        return f"is truncated: {missing_bytes:,} bytes of sound that its header states are missing"
    if len(sound.channels) < sound.promised_frames:
        return (
            f"is truncated: {len(sound.channels):,} of the {sound.promised_frames:,} samples that "
            "its header states"
        )
    if not MIN_RATE <= sound.sample_rate <= MAX_RATE:
        return f"has {sound.sample_rate:,} Hz; allowed are {MIN_RATE:,} to {MAX_RATE:,}"
    if sound.seconds > MAX_SECONDS:
        return f"lasts {sound.seconds:,.0f} s; at most {MAX_SECONDS:.0f} s are allowed: cut it"
    if not np.isfinite(sound.channels).all():
        return "holds samples that are no numbers (NaN or infinite)"
    return ""


SOUNDS = Media(
    noun="clip", endings=(".wav", ".flac", ".ogg"), example="yes/001.wav and no/001.wav",
    check=check_sound,
)  # fmt: skip
