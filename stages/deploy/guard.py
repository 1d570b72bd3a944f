"""The guard: a small process between us and the server that cleans up whatever becomes of us.

    python guard.py SHM_PREFIX GRACE_S CLEANUP -- program argument ...

It starts the program in a session of its own and waits for whichever comes first: the program ends,
or its own standard input closes, which also happens when our process is killed outright. Then it
stops the program (SIGTERM, after GRACE_S SIGKILL; at once for 0 or after any input), kills what is
left of its process group (stubs outlive a crashed server) and removes the regions of shared memory
that bear the prefix; last it runs CLEANUP, a command as one string, if it is not empty. Standard
library only; nothing of ours is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.05


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process with its parent: the guard may be killed too.

    A parent that has gone before it was asked is not told of any more.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Ask the kernel for the server's children when it dies: not every machine has an init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def wait_for_end(server: subprocess.Popen[bytes]) -> bool:
    """Return when the server or our standard input has ended, and whether there was any input."""
    at_once = False
    while server.poll() is None:
        readable, _, _ = select.select([0], [], [], _POLL_S)
        if readable and not os.read(0, 1):
            break
        at_once |= bool(readable)
    return at_once


def stop(server: subprocess.Popen[bytes], grace_s: float) -> None:
    """Stop the server and everything that it has started."""
    if grace_s and server.poll() is None:
        server.terminate()
        deadline = time.monotonic() + grace_s
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    with contextlib.suppress(ChildProcessError):
        while True:  # the stubs, adopted: gone for good when this returns
            os.waitpid(-1, 0)


def remove_regions(prefix: str) -> None:
    """Remove the shared-memory regions that a killed server has left behind."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """Run a server under guard and return its exit code."""
    prefix, grace_s, cleanup, _, *command = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # our standard input says when to stop

    adopt_orphans()
    own = os.getpid()

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(own)

    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=prepare
    )
    at_once = True
    try:
        at_once = wait_for_end(server)
    finally:
        stop(server, 0 if at_once else float(grace_s))
        remove_regions(prefix)
        if cleanup:
            subprocess.run(shlex.split(cleanup), stdout=subprocess.DEVNULL, check=False)
    return server.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
