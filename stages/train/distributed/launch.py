"""Launch: starts the processes that ``train.launch`` asks for, and stands between them and the run.

launch(config, ctx)     # on the first host: writes the job, starts an agent, passes on events
attend(config, ctx)     # on the others: starts an agent on the job that is there
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipeline import errors
from pipeline.artifacts import TrainedModel
from pipeline.context import Context
from pipeline.errors import DlpipeError, Interrupted, StageFailed
from pipeline.interrupt import StopFlag
from pipeline.store import load_artifact
from stages.train.config import TrainConfig
from stages.train.distributed.hosts import own_index
from stages.train.distributed.job import Job, Outcome, Relay

_POLL_S = 0.05
_GRACE_S = 15.0
JOB_FOLDER = "job"


def launch(config: TrainConfig, ctx: Context) -> TrainedModel:
    """Train in the processes that the configuration asks for, on this host and the others.

    Raises:
        Interrupted: a stop was asked for; a checkpoint was written.
        DlpipeError: training failed as it would have failed in one process.
        StageFailed: a process died, and went on dying when it was started again.
    """
    job = Job(ctx.dir / JOB_FOLDER)
    shutil.rmtree(job.folder, ignore_errors=True)
    job.write(config.model_copy(update={"rehearsal": False}), ctx, secrets.token_hex(8))
    ctx.call()
    _run_agent(config, ctx, job, host=0)
    trained = load_artifact(TrainedModel, job.result)
    shutil.rmtree(job.folder)
    return trained


def attend(config: TrainConfig, ctx: Context) -> None:
    """Run this host's processes of the job that the first host has written.

    Raises:
        Interrupted: a stop was asked for.
        DlpipeError: as on the first host.
    """
    _run_agent(config, ctx, Job(ctx.dir / JOB_FOLDER), host=own_index(config.launch.hosts))


def _run_agent(config: TrainConfig, ctx: Context, job: Job, host: int) -> None:
    relay = Relay(job.folder, ctx.events.stage)
    stopping = _Stopping(job, host, ctx.stop, config.parallel.timeout_s + _GRACE_S)
    with _agent(job, host) as agent:
        while agent.poll() is None:
            _pass_on(relay, ctx)
            failed = _first_failure(job)
            # All are stopped together, and the first may still be writing the checkpoint.
            if failed and failed.kind != Interrupted.__name__:
                _raise(failed, config)
            stopping.look(agent)
            time.sleep(_POLL_S)
        _pass_on(relay, ctx)
        if failed := _first_failure(job):
            _raise(failed, config)
        ctx.stop.check()
        if agent.returncode:
            log = _agent_log(job, host)
            raise StageFailed(
                f"the processes on this host ended with exit code {agent.returncode}: "
                + " / ".join(log.read_text(errors="replace").splitlines()[-5:])
            )


def _pass_on(relay: Relay, ctx: Context) -> None:
    for event in relay.news():
        for listener in ctx.events.listeners:
            listener.receive(event)


def _first_failure(job: Job) -> Outcome | None:
    """Return what ended the job: an error that a process reported rather than one it suffered."""
    return next((outcome for outcome in job.outcomes() if outcome.kind != "done"), None)


def _raise(outcome: Outcome, config: TrainConfig) -> NoReturn:
    kind = getattr(errors, outcome.kind, StageFailed)
    assert issubclass(kind, DlpipeError)
    where = "" if outcome.rank == 0 or issubclass(kind, Interrupted) else f"rank {outcome.rank}: "
    raise kind(outcome.message if outcome.kind == "died" else where + outcome.message)


@dataclass
class _Stopping:
    """Passes a stop on to the processes, once, and sees that they end."""

    job: Job
    host: int
    stop: StopFlag
    patience_s: float
    _asked_at: float | None = None

    def look(self, agent: subprocess.Popen[bytes]) -> None:
        """Ask a process of this host to stop; by agreement all of them will."""
        if not self.stop.requested:
            return
        if self._asked_at is None:
            pids = self.job.pids_on(self.host)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            self._asked_at = time.monotonic()
            if not pids:  # none has come as far as to have something to lose
                agent.kill()
        elif time.monotonic() - self._asked_at > self.patience_s:
            agent.kill()


@contextmanager
def _agent(job: Job, host: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run this host's agent; it and its processes end with the block, or with this process."""
    command = [sys.executable, "-m", "stages.train.distributed.agent", str(job.folder), str(host)]
    environment = {
        # Modules of the user's own are found where this process finds them.
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    with _agent_log(job, host).open("wb") as log:
        # A session of its own: Ctrl-C reaches this process alone, which passes it on in good order.
        agent = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.kill()
        agent.wait()


def _agent_log(job: Job, host: int) -> Path:
    return job.folder / f"agent-{host}.log"
