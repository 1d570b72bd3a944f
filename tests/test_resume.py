"""A run that is killed goes on at the very sample: its weights equal an undisturbed one's."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.files import sha256_file

ROOT = Path(__file__).parents[1]
CONFIG = """\
name: resume
seed: 3
stages:
  - augment:
      dataset: digits
      size: 16
      batch_size: 64
      train: [affine: {degrees: 10, translate: [0.1, 0.1]}]
  - train:
      model: resnet10t
      small_input: false
      epochs: 3
      target: null
      schedule: {warmup_epochs: 1}
      checkpoint: {every_steps: 4}
      threads: 1
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume") / "resume.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path, dlpipe) -> str:
    runs = config.parent / "undisturbed"
    dlpipe("run", config, "--runs-dir", runs)
    return weights(runs)


def weights(runs: Path) -> str:
    folder = runs / "resume" / "train"
    record = json.loads((folder / "artifact.json").read_text())
    return sha256_file(folder / record["artifact"]["weights"]["$path"])


def start(config: Path, runs: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", str(config), "--runs-dir", str(runs)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(process: subprocess.Popen[str], runs: Path) -> None:
    folder = runs / "resume" / "train.partial" / "checkpoints"
    before = {path.name for path in folder.glob("*")}
    deadline = time.monotonic() + 120
    while {path.name for path in folder.glob("*")} <= before:
        assert process.poll() is None, "ended before it could be disturbed"
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)


def test_killed_at_a_random_moment_and_stopped_politely_the_weights_are_equal(
    config: Path, undisturbed: str, dlpipe
) -> None:
    runs = config.parent / "disturbed"
    process = start(config, runs)
    wait_for_checkpoint(process, runs)
    time.sleep(random.uniform(0, 0.4))
    process.kill()
    process.communicate()

    process = start(config, runs)
    wait_for_checkpoint(process, runs)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "train: resumes" in err
    assert "stopped by SIGTERM; run the same command again" in err

    done = dlpipe("run", config, "--runs-dir", runs)
    assert "train: resumes" in done.err
    assert "augment: cached" in done.err
    assert weights(runs) == undisturbed


def test_a_second_process_is_told_who_holds_the_folder(config: Path, dlpipe) -> None:
    runs = config.parent / "locked"
    process = start(config, runs)
    try:
        wait_for_checkpoint(process, runs)
        done = dlpipe("run", config, "--runs-dir", runs, check=4)
        assert f"in use by process {process.pid}" in done.err
    finally:
        process.kill()
        process.communicate()
