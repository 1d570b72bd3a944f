"""Server: a Triton that we start, know to be ready, watch, and always stop.

with Server(program=..., endpoints=..., target=..., log_path=..., start_timeout_s=60) as server:
    fault = server.fault()
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pipeline.errors import StageFailed
from pipeline.interrupt import StopFlag
from stages.deploy import guard
from stages.deploy.backends import Program
from stages.deploy.canary import Canary
from stages.deploy.client import RequestFailed, open_client
from stages.deploy.ports import HOST, Endpoints

_POLL_S = 0.05
_WORKER = b"triton_python_backend_stub"
_ADMIN_APIS = "model-repository,shared-memory,statistics,trace,logging"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The tensor model of a repository, as the canary asks it."""

    model: str
    input: str
    output: str
    canary: Canary | None
    """None where no answer is known: an engine that could not run where it was built."""


@dataclass(kw_only=True)
class Server:
    """A running tritonserver, from entering the block to leaving it."""

    program: Program
    endpoints: Endpoints
    target: Target
    log_path: Path
    start_timeout_s: float
    drain_s: int = 0
    """How long requests in flight may take once it is told to stop; 0 where they are all ours."""
    stop: StopFlag = field(default_factory=StopFlag)
    started_in_s: float = 0.0
    """Seconds from start to the first right answer."""

    def __post_init__(self) -> None:
        self.shm_prefix = f"dlpipe-{os.getpid()}-{secrets.token_hex(4)}-"
        self._workers = 0
        self._guard: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        started = time.monotonic()
        self._log = self.log_path.open("wb")
        guarded = [sys.executable, "-I", "-S", guard.__file__]
        settings = [self.shm_prefix, str(self.drain_s), shlex.join(self.program.cleanup)]
        self._guard = subprocess.Popen(
            [*guarded, *settings, "--", *self.program.argv, *self._flags()],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.program.env},
            start_new_session=True,  # Ctrl-C at the terminal is for us; we stop the server in order
        )
        try:
            self._await_ready(started + self.start_timeout_s)
            self._workers = self.workers()
            fault = self.fault()
            if fault:
                raise StageFailed(self._message(f"is up and answers wrongly: {fault}"))
        except BaseException:
            self.close(at_once=True)
            raise
        self.started_in_s = time.monotonic() - started
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(at_once=error is not None)

    @property
    def alive(self) -> bool:
        """Whether the server's process runs; says nothing about its answers."""
        return self._guard is not None and self._guard.poll() is None

    def fault(self) -> str | None:
        """Return what is wrong with the server, or None: it runs and answers the canary rightly."""
        if not self.alive:
            return "its process has ended"
        dead = self._workers - self.workers()
        if dead > 0:
            return f"{dead} of its {self._workers} workers died, and it will not replace them"
        if self.target.canary is None:
            return None if self._says_ready() else "it does not say that it is ready"
        client = open_client("grpc", self.endpoints, timeout_s=10)
        try:
            images = {self.target.input: self.target.canary.images}
            answer = client.infer(self.target.model, images, [self.target.output])
        except RequestFailed as error:
            return f"the canary request failed: {error}"
        finally:
            client.close()
        return self.target.canary.fault(answer[self.target.output].astype("float32"))

    def workers(self) -> int:
        """Return how many workers of Triton's Python backend live; each names our prefix."""
        prefix, count = self.shm_prefix.encode(), 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            count += words[0].endswith(_WORKER) and any(w.startswith(prefix) for w in words[1:])
        return count

    def close(self, *, at_once: bool = False) -> None:
        """Stop the server, its helpers and its shared memory; safe to call twice."""
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it may have ended by itself
                if at_once:
                    self._guard.stdin.write(b"!")
                self._guard.stdin.close()
            self._guard.wait()
            self._guard = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _flags(self) -> list[str]:
        ends = self.endpoints
        key = f"admin-key={secrets.token_hex(16)}"  # known to nobody: these stay shut
        return [
            f"--model-repository={self.program.repository}",
            f"--http-address={HOST}",
            f"--http-port={ends.http_port}",
            f"--grpc-address={HOST}",
            f"--grpc-port={ends.grpc_port}",
            f"--metrics-address={HOST}",
            f"--metrics-port={ends.metrics_port}",
            f"--http-restricted-api={_ADMIN_APIS}:{key}",
            f"--grpc-restricted-protocol={_ADMIN_APIS}:{key}",
            "--disable-auto-complete-config",
            "--strict-readiness=true",
            "--exit-on-error=true",
            "--log-format=ISO8601",
            f"--exit-timeout-secs={self.drain_s}",
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}",
            *self.program.flags,
        ]

    def _await_ready(self, deadline: float) -> None:
        while not self._says_ready():
            self.stop.check()
            if not self.alive:
                raise StageFailed(self._message("ended while it was starting"))
            if time.monotonic() > deadline:
                raise StageFailed(
                    self._message(
                        f"was not ready within {self.start_timeout_s:g} s; "
                        "raise stages.deploy.start_timeout_s if it needs longer"
                    )
                )
            time.sleep(_POLL_S)

    def _says_ready(self) -> bool:
        """Ask the readiness endpoint: it turns 200 when every model is loaded and warm."""
        connection = http.client.HTTPConnection(HOST, self.endpoints.http_port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _message(self, what: str) -> str:
        errors = error_lines(self.log_path)
        said = f" It said:\n{errors}" if errors else ""
        return f"stages.deploy: the Triton server {what}. Its log: {self.log_path}.{said}"


def error_lines(log_path: Path, most: int = 6) -> str:
    """Return the last error lines of a server's log."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [
        line.strip()
        for line in lines
        if (" E " in line or "error" in line.lower())
        and "cuda" not in line.lower()  # it complains of a missing driver on every CPU machine
    ]
    return "\n".join(errors[-most:])
