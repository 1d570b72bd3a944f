"""The stage on clips: from a folder of sounds, or the built-in words, to loaders and a chapter."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import DataError
from pipeline.report.blocks import load_section
from stages.augment.config import AugmentConfig
from stages.augment.loader import open_loader
from stages.augment.sources import keywords
from stages.augment.stage import Augment
from stages.augment.state import data_state


def stage(**settings: object) -> Augment:
    return Augment(AugmentConfig.model_validate(settings))


def run(folder: Path, **settings: object) -> DataSpec:
    folder.mkdir(exist_ok=True)
    return stage(**settings).run(Context(dir=folder))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Two words by one voice, in several formats and rates, one of them cut short."""
    voice = keywords.Voice(pitch=120.0, tract=1.0, pace=1.0, breath=0.05)
    for label, word in enumerate(("stop", "yes")):
        folder = tmp_path / "words" / word
        folder.mkdir(parents=True)
        for i in range(10):
            rng = np.random.default_rng([label, i])
            samples = keywords.speak(keywords.WORDS[word], voice, rng)
            ending, rate = (("wav", 16_000), ("flac", 22_050), ("ogg", 16_000))[i % 3]
            soundfile.write(folder / f"{i}.{ending}", samples, rate)
    whole = (tmp_path / "words" / "yes" / "0.wav").read_bytes()
    (tmp_path / "words" / "yes" / "short.wav").write_bytes(whole[:9_000])
    (tmp_path / "words" / "yes" / "notes.txt").write_text("not a sound")
    return tmp_path / "words"


def test_a_folder_of_clips_becomes_spectrograms(words: Path, tmp_path: Path) -> None:
    spec = run(
        tmp_path / "out", dataset={"audio_folder": str(words)}, audio={"mels": 32}, batch_size=4
    )
    assert (spec.kind, spec.reader, spec.classes) == ("audio", "folder", ("stop", "yes"))
    assert spec.input.shape == (-1, 32, 101, 1)
    assert spec.preprocess is not None
    assert "short.wav" in (tmp_path / "out" / "damaged.json").read_text()
    with closing(open_loader(spec, "eval")) as loader:
        batches = list(loader)
    assert sum(len(batch.inputs) for batch in batches) == spec.splits["eval"].samples == 4
    section = load_section(tmp_path / "out")
    told = str(section)
    for word in ("16,000 Hz 14, 22,050 Hz 6", "mono 20", "Spectrograms of training clips"):
        assert word in told
    assert "1 damaged ones left out" in section.summary
    assert "image" not in section.summary
    assert len(list((tmp_path / "out" / "spectrograms").glob("*.png"))) == 2


def test_another_spectrogram_is_another_digest(words: Path, tmp_path: Path) -> None:
    settings = {"dataset": {"audio_folder": str(words)}, "batch_size": 4, "backend": "soundfile"}
    one = run(tmp_path / "one", **settings)
    assert run(tmp_path / "two", **settings).digest == one.digest
    assert run(tmp_path / "three", **settings, audio={"floor_db": -60.0}).digest != one.digest


def test_the_state_of_a_folder_changes_with_its_files(words: Path) -> None:
    dataset = AugmentConfig.model_validate({"dataset": {"audio_folder": str(words)}}).dataset
    before = data_state(dataset)
    (words / "yes" / "notes.txt").unlink()
    assert data_state(dataset) != before


def test_a_folder_without_clips_says_what_clips_are(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no clip in it\. Clips are files .* \.wav, \.flac, \.ogg"):
        run(tmp_path / "out", dataset={"audio_folder": str(tmp_path / "photos")})


def test_a_missing_folder_and_a_backend_of_images_are_told_before_anything_runs() -> None:
    problems = stage(dataset={"audio_folder": "/nowhere/words"}, backend="array").check(CPU)
    assert [problem.path for problem in problems] == ["dataset.audio_folder", "backend"]
    assert "'dali-gpu', 'dali-cpu' or 'soundfile'" in problems[1].message
    told = stage(dataset="digits", backend="soundfile").check(CPU)
    assert "'torchvision' or 'array'" in told[0].message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "keyword"}, "Did you mean 'keywords'?"),
        ({"dataset": {"audio_foldr": "x"}}, "Did you mean 'audio_folder'?"),
        ({"dataset": "keywords", "train": ["flip"]}, "'flip' works on images, and the data set"),
        ({"dataset": "keywords", "train": ["erase"]}, "mean 'time_mask' or 'frequency_mask'"),
        ({"dataset": "keywords", "eval": ["resize"]}, "'resize' works on images"),
        ({"dataset": "keywords", "train": ["time_mas"]}, "Did you mean 'time_mask'?"),
        ({"dataset": "keywords", "train": ["gain", "gain"]}, "'gain' stands there 2 times"),
        ({"dataset": "keywords", "eval": ["gain"]}, "Gain is random"),
        ({"dataset": "digits", "train": ["time_mask"]}, "'time_mask' works on clips of sound"),
        ({"dataset": "digits", "audio": {}}, "audio: is for clips of sound"),
        ({"dataset": "keywords", "size": 32}, "size and channels are for images"),
        ({"dataset": "keywords", "channels": 1}, "size and channels are for images"),
        ({"dataset": "keywords", "mean_std": "imagenet"}, "'auto' or 'half'"),
        ({"dataset": "keywords", "train": [{"speed": {"factor": 0.9}}]}, "must lie within 0.25"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_explained(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AugmentConfig.model_validate(settings)
    assert said in str(caught.value)


def test_the_built_in_words_are_the_same_each_time_and_never_of_one_voice_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "VOICES", {"train": 2, "eval": 1})
    monkeypatch.setattr(keywords, "TAKES", 1)
    for name in ("one", "two"):
        keywords.write_keywords(tmp_path / name, seed=5)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.wav"))
    assert len(files) == 3 * len(keywords.WORDS)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    voices = {part: {f.stem[:3] for f in files if f.parts[0] == part} for part in ("train", "eval")}
    assert voices == {"train": {"v00", "v01"}, "eval": {"v02"}}
    clip, rate = soundfile.read(tmp_path / "one" / files[0])
    assert (len(clip), rate) == (16_000, 16_000)
    assert 0.01 < np.abs(clip).max() <= 1
