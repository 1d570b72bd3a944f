"""Lock: one process at a time works in a run folder; the second is told who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RunLocked

LOCK_FILE = ".lock"


@contextmanager
def hold_lock(run_dir: Path) -> Iterator[None]:
    """Hold the run folder; the kernel lets go when the process ends, however it ends.

    Raises:
        RunLocked: another living process holds it.
    """
    path = run_dir / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunLocked(_held(run_dir, file.read())) from None
        file.seek(0)
        file.truncate()
        json.dump(_holder(), file)
        file.flush()
        yield


def _holder() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv),
    }


def _held(run_dir: Path, text: str) -> str:
    try:
        who = json.loads(text)
        holder = f"process {who['pid']} on {who['host']} since {who['since']} ({who['command']})"
    except (ValueError, KeyError, TypeError):
        holder = "another process"
    return (
        f"{run_dir}: is in use by {holder}. Wait for it, stop it, or give this run another `name`."
    )
