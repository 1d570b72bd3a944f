"""``launch:`` in the YAML: the train stage starts processes, and restarts them when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.errors import ConfigError, Interrupted, StageFailed
from pipeline.events import Event, EventLog
from pipeline.interrupt import StopFlag
from stages.train.config import TrainConfig
from stages.train.distributed import launch
from stages.train.distributed.job import Job, Outcome
from stages.train.stage import Train

HERE = Path(__file__).parent

pytestmark = pytest.mark.timeout(400)


class Listener:
    """Keeps events, and does something at the first of a kind."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.at: dict[str, Callable[[], None]] = {}

    def receive(self, event: Event) -> None:
        self.events.append(event)
        if action := self.at.pop(event.kind, None):
            action()

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def start(attempts, neighbour, tmp_path, listener, monkeypatch):
    """Run the stage in this process with two more for the work."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    scenarios = neighbour("scenarios")
    spec = read_spec(attempts.folder / "data")

    def run(stop: StopFlag | None = None, **changes: object):
        recipe = {**scenarios.RECIPE, **scenarios.RANDOM, "launch": {"processes": 2}, **changes}
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        context = Context(
            dir=folder, artifacts={DataSpec: spec}, events=EventLog((listener,), stage="train"),
            stop=stop or StopFlag(),
        )  # fmt: skip
        return Train(TrainConfig.model_validate(recipe)).run(context)

    return run


def read_spec(folder: Path) -> DataSpec:
    from pipeline.store import load_artifact

    return load_artifact(DataSpec, folder)


def worker(folder: Path, rank: int) -> int:
    return Job(folder / "run" / "job").pids_on(0)[rank]


def difference(one: Path, other: Path) -> float:
    a, b = load_file(one), load_file(other)
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_a_killed_worker_is_started_again_and_the_result_is_the_same_to_the_bit(
    attempts, start, listener, tmp_path
):
    listener.at["epoch"] = lambda: os.kill(worker(tmp_path, 1), signal.SIGKILL)
    trained = start()
    assert [event.fields["count"] for event in listener.of("restart")] == [1]
    said = " ".join(str(event.fields["message"]) for event in listener.of("warning"))
    assert "local rank 1" in said
    assert "was killed by SIGKILL" in said
    assert difference(trained.weights, attempts.folder / "launched twin" / "model.safetensors") == 0
    truth = np.load(attempts.folder / "data" / "eval_labels.npy")
    assert np.load(trained.predictions)["targets"].tolist() == truth.tolist()
    assert not (tmp_path / "run" / "job").exists()


def test_a_worker_that_dies_again_and_again_ends_the_run_with_its_rank_and_last_words(start):
    with pytest.raises(StageFailed, match=r"(?s)rank [01] on \S+ ended with exit code 1, and 0 re"):
        start(model_options={"crash_at": 3}, launch={"processes": 2, "max_restarts": 0})


def test_a_stop_reaches_the_workers_and_the_run_goes_on_from_there(attempts, start, listener):
    stop = StopFlag()
    listener.at["epoch"] = lambda: stop.request("SIGTERM")
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        start(stop)
    trained = start()
    assert any("resumed at step" in str(e.fields["message"]) for e in listener.of("info"))
    assert difference(trained.weights, attempts.folder / "launched twin" / "model.safetensors") == 0


def test_a_stop_waits_for_the_checkpoint_that_the_first_process_writes(
    start, tmp_path, monkeypatch
):
    """Others have nothing to write, and so have ended before."""
    written = tmp_path / "written"

    @contextmanager
    def agent(job: Job, host: int):
        job.leave_outcome(Outcome(kind="Interrupted", message="stopped", rank=1))
        code = f"import time, pathlib; time.sleep(1); pathlib.Path({str(written)!r}).touch()"
        process = subprocess.Popen([sys.executable, "-c", code])
        yield process
        process.kill()
        process.wait()

    monkeypatch.setattr(launch, "_agent", agent)
    with pytest.raises(Interrupted, match="stopped"):
        start()
    assert written.exists()


def test_an_error_of_a_worker_is_raised_as_it_would_be_in_one_process(start):
    with pytest.raises(StageFailed, match="the loss or a gradient was not finite"):
        start(model_options={"nan_at": 3})


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(start, tmp_path):
    with pytest.raises(ConfigError, match="cannot be shared equally by 3 processes. all together"):
        start(launch={"processes": 3})
    assert not (tmp_path / "run" / "job").exists()
