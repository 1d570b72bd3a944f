"""A few clips on disk in every format, rate and layout, and a `DataSpec` over them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pipeline.artifacts import DataSpec, Split
from stages.augment.audio.features import AudioFeatures
from stages.augment.spec import TransformSpec

RATES = (16_000, 8_000, 44_100, 22_050, 48_000)
FORMATS = ("WAV", "FLAC", "OGG")
NUM_CLIPS = 24
NUM_CLASSES = 3

MakeSpec = Callable[..., DataSpec]


def chirp(rng: np.random.Generator, seconds: float, rate: int) -> NDArray[np.float32]:
    """A tone that glides between two random pitches, in a little noise."""
    pitch = np.linspace(*rng.uniform(200, 3000, 2), round(seconds * rate))
    tone = 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    return (tone + 0.01 * rng.standard_normal(len(tone))).astype(np.float32)


def encode(samples: NDArray[np.float32], rate: int, format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest over clips that differ in format, rate, length and number of channels."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(3)
    lines = []
    for i in range(NUM_CLIPS):
        rate, format = RATES[i % len(RATES)], FORMATS[i % len(FORMATS)]
        samples = chirp(rng, float(rng.uniform(0.2, 0.9)), rate)
        if i % 4 == 3:
            samples = np.stack([samples, 0.5 * samples[::-1]], axis=1)
        name = f"{i}.{format.lower()}"
        (folder / name).write_bytes(encode(samples, rate, format))
        lines.append(json.dumps({"file": name, "label": i % NUM_CLASSES}))
    manifest = folder / "all.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@pytest.fixture(scope="session")
def files(clips: Path) -> list[bytes]:
    """The same clips as bytes."""
    names = [json.loads(line)["file"] for line in clips.read_text().splitlines()]
    return [(clips.parent / name).read_bytes() for name in names]


@pytest.fixture
def make_clip_spec(tmp_path: Path, clips: Path) -> MakeSpec:
    """Build a `DataSpec` whose splits are all the same clips."""

    def make(
        train: Sequence[object] = (),
        *,
        backend: str = "soundfile",
        batch_size: int = 8,
        manifest: Path = clips,
        num_samples: int = NUM_CLIPS,
        **audio: object,
    ) -> DataSpec:
        features = AudioFeatures.model_validate({"seconds": 0.5, "mels": 32, **audio})
        transforms = tmp_path / "transforms.json"
        TransformSpec.model_validate({"train": list(train), "audio": features}).save(transforms)
        split = Split(manifest=manifest, samples=num_samples)
        return DataSpec(
            kind="audio", name="test", backend=backend, reader="folder", transforms=transforms,
            splits={"train": split, "eval": split, "calibration": split},
            classes=tuple(f"word {label}" for label in range(NUM_CLASSES)),
            height=features.mels, width=features.frames, channels=1, mean=(0.5,), std=(0.25,),
            batch_size=batch_size, digest="test",
        )  # fmt: skip

    return make
