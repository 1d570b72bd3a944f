"""Clips end to end: a folder of sounds in, a quantized model that answers about sound files out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.augment.sources.keywords import RATE, WORDS, Voice, speak

ROOT = Path(__file__).parents[1]
SMALL = (
    "stages.augment.batch_size=8", "stages.augment.audio.mels=32",
    "stages.train.epochs=3", "stages.train.rehearsal=false", "stages.train.target=null",
    "stages.train.schedule.warmup_epochs=0", "stages.export.backend=onnxruntime",
    "stages.export.precisions=[fp32, int8]", "stages.export.calibration.samples=32",
    "stages.export.latency.seconds=0.1", "stages.export.max_drop=100", "max_drop=100",
    "stages.deploy.load.seconds=0.3", "stages.deploy.load.concurrency=[1]",
    "stages.deploy.slo.p99_ms=10000",
)  # fmt: skip
FORMATS = (("wav", RATE), ("flac", RATE), ("wav", 44_100), ("ogg", 22_050))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three words in several formats and rates, mono and stereo, with one damaged file."""
    root = tmp_path_factory.mktemp("words")
    for word in ("go", "stop", "yes"):
        for i in range(24):
            rng = np.random.default_rng([len(word), i])
            voice = Voice(rng.uniform(90, 250), rng.uniform(0.9, 1.2), 1.0, 0.05)
            samples = speak(WORDS[word], voice, rng)
            ending, rate = FORMATS[i % len(FORMATS)]
            if i % 5 == 4:
                samples = np.stack([samples, samples], axis=1)
            path = root / ("val" if i < 6 else "train") / word / f"{i:02d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples.clip(-1, 1), rate)
    whole = (root / "train" / "yes" / "08.wav").read_bytes()
    (root / "train" / "yes" / "broken.wav").write_bytes(whole[:5_000])
    return root


@pytest.fixture(scope="module")
def finished(clips: Path, dlpipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    dlpipe(
        "run", "configs/audio_keywords.yaml",
        f"stages.augment.dataset={{audio_folder: {clips}}}", *SMALL, "--runs-dir", runs,
    )  # fmt: skip
    return runs / "audio_keywords"


def test_what_is_served_for_files_is_what_was_measured_offline(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["ran"] * 4
    top1 = {hop["name"]: hop["top1"] for hop in record["hops"]}
    assert top1["served"] == top1["onnx int8"]
    gates = {
        gate["name"]: gate
        for gate in json.loads((finished / "deploy" / "artifact.json").read_text())["artifact"][
            "gates"
        ]
    }
    same = gates["served equals offline"]
    # 18 clips as tensors alone and in batches, and as files: over HTTP and over gRPC.
    assert same["passed"]
    assert same["message"].startswith(f"{18 * 3 * 2} answers compared")


def test_the_damaged_clip_is_named_and_the_report_shows_spectrograms(finished: Path) -> None:
    assert "broken.wav" in (finished / "augment" / "damaged.json").read_text()
    html = (finished / "report.html").read_text(encoding="utf-8")
    for word in (
        "Spectrograms of training clips",
        "Clips by class and split",
        "44,100 Hz",
        "clip.wav",
    ):
        assert word in html


def test_the_example_asks_about_sounds(finished: Path, clips: Path, served) -> None:
    files = [clips / "val" / "stop" / name for name in ("00.wav", "01.flac", "03.ogg")]
    with served(finished) as (http, _):
        done = subprocess.run(
            [
                sys.executable, "examples/query_the_server/query.py", *map(str, files),
                "--model", "keywords", "--http", f"127.0.0.1:{http}",
            ],
            capture_output=True, text=True, cwd=ROOT, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [line.partition(": ") for line in done.stdout.splitlines()]
    assert [name for name, _, _ in answers] == ["00.wav", "01.flac", "03.ogg"]
    assert {answer.split()[0] for _, _, answer in answers} <= {"go", "stop", "yes"}
