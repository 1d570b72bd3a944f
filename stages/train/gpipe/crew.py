"""Crew: the processes of a pipeline's stages: started, watched, and ended without a trace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from pipeline.errors import ConfigError, DlpipeError, StageFailed
from stages.train.gpipe.messages import Done, Failed, Ready

_END_S = 5.0
"""How long a process may take to end by itself."""
_LAST_WORDS_S = 2.0
"""How long to wait for the exit code of a process whose line has closed."""
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""Tells glibc to keep what is freed: a step frees and takes the same memory again and again, and
would else fault every page of it in anew."""
_RESUMES = "The same command resumes from the last checkpoint."


@dataclass(frozen=True, slots=True)
class Member:
    """The process of one stage."""

    stage: int
    name: str
    process: subprocess.Popen[bytes]
    control: Connection
    errors: int
    """Descriptor of what the process wrote to stderr."""


class Crew:
    """All processes of one pipeline."""

    def __init__(self, names: Mapping[int, str], *, threads: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.members = [_start(stage, name, threads) for stage, name in names.items()]

    @property
    def lines(self) -> tuple[int, ...]:
        """Descriptors that have news when a process fails or dies."""
        return tuple(member.control.fileno() for member in self.members)

    def send_to(self, member: Member, message: object) -> None:
        """Tell one of them something.

        Raises:
            StageFailed: it is no longer there.
        """
        try:
            member.control.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self.failure() from None

    def replies(self, timeout_s: float = 0.0) -> dict[int, Ready | Done]:
        """Wait until all have answered; by stage.

        Args:
            timeout_s: where it is longer than the crew's own.

        Raises:
            StageFailed: one failed, died, or did not answer in time.
            ConfigError: the user has to change something, and the message says what.
        """
        found: dict[int, Ready | Done] = {}
        waiting = {member.control: member for member in self.members}
        deadline = time.monotonic() + max(timeout_s, self._timeout_s)
        while waiting:
            for control in wait(list(waiting), deadline - time.monotonic()):
                assert isinstance(control, Connection)
                try:
                    reply = control.recv()
                except (EOFError, ConnectionResetError):
                    raise self.failure() from None
                if isinstance(reply, Failed):
                    raise _failure(waiting[control], reply)
                found[waiting.pop(control).stage] = reply
            if waiting and time.monotonic() > deadline:
                raise self.silence(min(member.stage for member in waiting.values()))
        return found

    def failure(self) -> DlpipeError:
        """Return what to raise once it is known that something went wrong somewhere."""
        deadline = time.monotonic() + _LAST_WORDS_S
        while True:
            for member in self.members:
                try:
                    while member.control.poll():
                        reply = member.control.recv()
                        if isinstance(reply, Failed):
                            return _failure(member, reply)
                except (EOFError, OSError):
                    pass
            for member in self.members:
                if member.process.poll() is not None:
                    return _death(member)
            if time.monotonic() > deadline:
                return self.silence(self.members[-1].stage)
            time.sleep(0.01)

    def silence(self, stage: int) -> StageFailed:
        """Return what to raise when a stage does not answer."""
        member = next(member for member in self.members if member.stage == stage)
        return StageFailed(
            f"train: {member.name} of the pipeline, process {member.process.pid}, gave no answer "
            f"for {self._timeout_s:g} s (parallel.timeout_s). If it only needs longer, raise that. "
            f"{_RESUMES}"
        )

    def close(self, *, at_once: bool = False) -> None:
        """End all processes."""
        for member in self.members:
            member.control.close()
            if at_once:
                member.process.kill()
        deadline = time.monotonic() + _END_S
        for member in self.members:
            try:
                member.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
            os.close(member.errors)
        self.members = []


def _start(stage: int, name: str, threads: int) -> Member:
    ours, theirs = socket.socketpair()
    errors = os.memfd_create(f"dlpipe stage {stage}")
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-P", "-m", "stages.train.gpipe.worker"]
    with theirs:
        process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env={
                **os.environ,
                **_KEEP_MEMORY,
                "PYTHONPATH": path,
                "OMP_NUM_THREADS": str(threads),
                "CUDA_VISIBLE_DEVICES": "",
            },
            process_group=0,  # Ctrl-C in the terminal is for the process in charge
        )
    return Member(stage, name, process, Connection(ours.detach()), errors)


def _failure(member: Member, failed: Failed) -> DlpipeError:
    if failed.is_config:
        return ConfigError(failed.said)
    error = StageFailed(
        f"train: {member.name} of the pipeline failed: {failed.said}. {_RESUMES} Where it "
        f"happened:\n{failed.traceback.rstrip()}"
    )
    return error


def _death(member: Member) -> StageFailed:
    code = member.process.returncode
    how = f"ended with exit code {code}"
    mend = ""
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        mend = (
            " Linux kills so when memory runs out: more micro_batches take less of it, "
            "or parallel.recompute with schedule: gpipe or 1f1b."
        )
    words = os.pread(member.errors, 4000, max(0, os.fstat(member.errors).st_size - 4000))
    last = words.decode(errors="replace").strip()
    said = f" It last said:\n{last}" if last else ""
    return StageFailed(
        f"train: {member.name} of the pipeline, process {member.process.pid}, {how}.{mend} "
        f"{_RESUMES}{said}"
    )
