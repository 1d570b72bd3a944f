"""The guard: whatever becomes of us, nothing of the server stays behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stages.deploy import guard

PARENT = """
import subprocess, sys
guard = subprocess.Popen([sys.executable, "-I", "-S", *sys.argv[1:]], stdin=subprocess.PIPE,
                         start_new_session=True)
print(guard.pid, flush=True)
guard.wait()
"""
# A server with a worker of its own, and a region of shared memory; SIGTERM is ignored.
SERVER = 'trap "" TERM; touch "/dev/shm/$0region"; sleep 600 & wait; sleep 600'


def until(condition: Callable[[], bool], timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def prefix() -> Iterator[str]:
    prefix = f"dlpipe-test-{secrets.token_hex(4)}-"
    yield prefix
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink()


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return all(
        not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        for process in processes
    )


def test_when_the_parent_is_killed_the_server_its_workers_and_its_memory_go(
    prefix: str, tmp_path: Path
) -> None:
    cleaned = tmp_path / "cleaned"
    arguments = [guard.__file__, prefix, "0", f"touch {cleaned}", "--", "sh", "-c", SERVER, prefix]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    guard_pid = int(parent.stdout.readline())
    region = Path(f"/dev/shm/{prefix}region")
    assert until(lambda: region.exists() and len(family(guard_pid)) == 2)
    processes = [psutil.Process(guard_pid), *family(guard_pid)]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert until(lambda: gone(processes))
    assert not region.exists()
    assert cleaned.exists()


def start(prefix: str, grace_s: str, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, prefix, grace_s, "", "--", *command],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def test_a_closed_input_stops_the_server_in_order(prefix: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f'trap "echo bye > {said}; exit 0" TERM; touch {said}.up; while :; do sleep 0.05; done'
    process = start(prefix, "5", "sh", "-c", script)
    assert until(Path(f"{said}.up").exists)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    assert said.read_text() == "bye\n"


def test_the_exit_code_is_the_servers(prefix: str) -> None:
    process = start(prefix, "0", "sh", "-c", "exit 7")
    assert process.wait(timeout=10) == 7
    assert process.stdin is not None
    process.stdin.close()


def test_ctrl_c_at_the_terminal_does_not_reach_the_server(prefix: str) -> None:
    process = start(prefix, "0", "sleep", "600")
    assert until(lambda: len(family(process.pid)) == 1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=10)


def test_a_server_whose_guard_was_killed_before_it_began_ends_too() -> None:
    program = (
        "import os, sys; from stages.deploy.guard import die_with_parent\n"
        "die_with_parent(os.getppid() + int(sys.argv[1])); sys.exit(7)"
    )
    ends = [
        subprocess.run([sys.executable, "-c", program, off], check=False).returncode
        for off in ("0", "1")
    ]
    assert ends == [7, 1]


def test_when_the_guard_itself_is_killed_the_server_ends(prefix: str) -> None:
    process = start(prefix, "0", "sleep", "600")
    assert until(lambda: len(family(process.pid)) == 1)
    processes = family(process.pid)
    process.kill()
    process.wait()
    assert until(lambda: gone(processes))
    assert process.stdin is not None
    process.stdin.close()
