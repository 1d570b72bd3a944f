"""Each benchmark runs from the command line and ends with one line of JSON; no time is asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("training", "precision", "loader", "inference", "server", "time_to_accuracy", "fff",
         "fff_quality", "fff_gpu")  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Run all of them, two at a time: what they measure is not looked at."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, f"benchmarks.{name}", "--quick") for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_last_line_says_what_was_measured_and_what_was_met(runs, name):
    done = runs[name].result()
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert list(last) == ["benchmark", "figures", "targets", "met"]
    assert last["benchmark"] == name
    assert last["targets"].keys() == last["met"].keys()
    assert last["targets"].keys() <= last["figures"].keys()
    assert all(type(met) is bool for met in last["met"].values())
    assert all(math.isfinite(figure) for figure in last["figures"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_machine_and_its_load_are_printed(runs, name):
    printed = runs[name].result().stdout
    assert "machine: " in printed
    assert "load: " in printed
    assert "cpu-s" in printed
