"""Resume: however a run was cut, the same call goes on to the same bits."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import Interrupted
from pipeline.files import sha256_file

HERE = Path(__file__).parent


def stop_in_epoch(recorder, stop, epoch: int) -> None:
    """Ask for a stop at the first sign of progress in an epoch."""

    def on_event(event) -> None:
        if str(event.fields.get("note")).startswith(f"epoch {epoch}/"):
            stop.request("SIGTERM")

    recorder.on_event = on_event


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16_emulated"])
def test_a_stopped_run_goes_on_to_the_same_bits(train_once, recorder, stop, precision):
    undisturbed = train_once("undisturbed", precision=precision)
    for epoch in (1, 2, 3):
        stop_in_epoch(recorder, stop, epoch)
        with pytest.raises(Interrupted, match="stopped by SIGTERM; run the same command again"):
            train_once("stopped", precision=precision)
        stop.signal_name = ""
    recorder.on_event = lambda event: None
    resumed = train_once("stopped", precision=precision)
    assert sum("resumed at step" in m for m in recorder.messages("info")) == 3
    assert sha256_file(resumed.weights) == sha256_file(undisturbed.weights)
    np.testing.assert_array_equal(
        np.load(resumed.predictions)["logits"], np.load(undisturbed.predictions)["logits"]
    )


def test_a_stop_during_evaluation_loses_no_step(train_once, recorder, stop):
    def on_event(event) -> None:
        if event.fields.get("label") == "eval" and len(recorder.of("epoch")) == told + 1:
            stop.request("SIGINT")

    undisturbed = train_once("undisturbed")
    told = len(recorder.of("epoch"))
    recorder.on_event = on_event
    with pytest.raises(Interrupted, match="SIGINT"):
        train_once("stopped")
    stop.signal_name, recorder.on_event = "", lambda event: None
    resumed = train_once("stopped")
    assert "resumed at step 12 (epoch 2)" in recorder.messages("info")
    assert sha256_file(resumed.weights) == sha256_file(undisturbed.weights)


def test_a_stop_in_the_last_evaluation_only_repeats_that(train_once, recorder, stop):
    def on_event(event) -> None:
        if event.fields.get("label") == "eval fp32":
            stop.request("SIGTERM")

    undisturbed = train_once("undisturbed")
    recorder.on_event = on_event
    with pytest.raises(Interrupted, match="SIGTERM"):
        train_once("stopped")
    stop.signal_name, recorder.on_event = "", lambda event: None
    before = len(recorder.of("epoch"))
    resumed = train_once("stopped")
    assert len(recorder.of("epoch")) == before
    assert sha256_file(resumed.weights) == sha256_file(undisturbed.weights)


def test_processes_killed_at_random_steps_end_at_the_same_bits(tmp_path):
    """Real processes, real SIGKILL, in the middle of a step."""
    draw = random.Random()
    kills = [str(draw.randint(1, 14)) for _ in range(4)]
    command = [sys.executable, str(HERE / "killed_runs.py"), str(tmp_path), *kills]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0, told.stderr + f" (killed at {kills})"
    hashes = dict(line.split() for line in told.stdout.splitlines())
    assert hashes["killed"] == hashes["undisturbed"], f"killed at {kills}"
    assert int(hashes["deaths"]) >= 1
