"""Runs shared by the end-to-end tests: real runs through the command line, made once a session."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that share runs first, so that one worker makes these and no other has to again.

    A worker keeps what stands first in its list; only what stands last is taken over by others.
    """
    items.sort(key=lambda item: item.path.parent.name != "tests")


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


Dlpipe = Callable[..., Finished]


@pytest.fixture(scope="session")
def dlpipe() -> Dlpipe:
    """Run the command line in a process of its own, from the repository's root."""

    def run(*arguments: str | Path, check: int | None = 0) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=dict(os.environ),
            timeout=900,
        )
        assert check is None or done.returncode == check, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@dataclass(frozen=True)
class Run:
    """A finished run's folder."""

    path: Path

    @property
    def record(self) -> dict[str, object]:
        """What ``run.json`` says."""
        document: dict[str, object] = json.loads((self.path / "run.json").read_text())
        return document

    def statuses(self) -> dict[str, str]:
        """What happened to each stage."""
        stages = self.record["stages"]
        assert isinstance(stages, list)
        return {stage["name"]: stage["status"] for stage in stages}

    def top1(self) -> dict[str, float]:
        """The accuracy after each hop."""
        hops = self.record["hops"]
        assert isinstance(hops, list)
        return {hop["name"]: hop["top1"] for hop in hops}


@pytest.fixture(scope="session")
def quickstart(dlpipe: Dlpipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The main job, as a newcomer runs it: with a relative folder for its results."""
    runs = tmp_path_factory.mktemp("runs")
    dlpipe("run", "configs/quickstart.yaml", "--runs-dir", os.path.relpath(runs, ROOT))
    return Run(runs / "quickstart")


Served = Callable[[Path], AbstractContextManager[tuple[int, int]]]


@pytest.fixture(scope="session")
def served() -> Served:
    """Serve a finished run while a block runs; gives its HTTP and gRPC ports."""

    @contextmanager
    def serve(run: Path) -> Iterator[tuple[int, int]]:
        http, grpc = free_port(), free_port()
        command = [sys.executable, "-m", "pipeline", "serve", str(run)]
        server = subprocess.Popen(
            [*command, "--http-port", str(http), "--grpc-port", str(grpc)],
            stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        try:
            wait_for(http, server)
            yield http, grpc
        finally:
            server.send_signal(signal.SIGINT)
            _, err = server.communicate(timeout=60)
        assert "Traceback" not in err
        assert server.returncode in {0, 75}

    return serve


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stderr.read() if server.stderr else ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail("the server did not become ready")
