"""Agent: starts a job's processes on one host, and starts all of them again when one dies.

``python -m stages.train.distributed.agent JOB HOST`` is torchrun with the job's settings, and with
an error that names the rank, the host and what the process wrote last.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.events import Event
from stages.train.config import TrainConfig
from stages.train.distributed.family import die_with_parent
from stages.train.distributed.hosts import address_of, interface_of
from stages.train.distributed.job import EventFile, Job, Outcome

_JOIN_S = 300
_GRACE_S = 10
_LAST_LINES = 12


class _Deaths(logging.Handler):
    """Tells of each death that the agent logs."""

    def __init__(self, listener: EventFile) -> None:
        super().__init__(logging.ERROR)
        self.listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        if not str(record.msg).startswith("failed (exitcode") or not isinstance(record.args, tuple):
            return
        exit_code, local_rank, pid, *_ = record.args
        message = (
            f"local rank {local_rank} on {socket.gethostname()} (process {pid}) "
            f"{describe_exit(int(str(exit_code)))}"
        )
        self.listener.receive(
            Event(kind="warning", time=time.time(), stage="", fields={"message": message})
        )


def describe_exit(code: int) -> str:
    """Say how a process ended."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def launch_settings(config: TrainConfig, run_id: str, host: int, logs: Path) -> LaunchConfig:
    """Return what the elastic agent of one host needs."""
    launch = config.launch
    hosts = launch.hosts or ["localhost"]
    own, first = address_of(hosts[host]), address_of(hosts[0])
    return LaunchConfig(
        min_nodes=len(hosts),
        max_nodes=len(hosts),
        nproc_per_node=launch.processes,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{first}:{launch.port}" if launch.hosts else "localhost:0",
        # The first host keeps the store. Left to itself, torch compares host names, and where
        # names do not match addresses (containers, network namespaces) nobody keeps it.
        rdzv_configs={"is_host": str(host == 0).lower(), "join_timeout": _JOIN_S},
        local_addr=own if launch.hosts else "localhost",
        max_restarts=launch.max_restarts,
        shutdown_timeout=_GRACE_S,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
    )


def main() -> None:
    """Run the job's processes on this host to their end."""
    die_with_parent()
    job, host = Job(Path(sys.argv[1])), int(sys.argv[2])
    config, _, run_id = job.read()
    hosts = config.launch.hosts
    if hosts and (interface := interface_of(address_of(hosts[host]))):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    deaths = _Deaths(EventFile(job.folder / f"events-agent-{host}.jsonl"))
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addHandler(deaths)
    settings = launch_settings(config, run_id, host, job.folder / f"logs-{host}")
    worker = ("-m", "stages.train.distributed.worker", str(job.folder), str(host))
    try:
        elastic_launch(settings, sys.executable)(*worker)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        message = f"rank {rank} on {socket.gethostname()} {describe_exit(failure.exitcode)}, "
        message += f"and {config.launch.max_restarts} restart(s) did not help (launch.max_restarts)"
        job.leave_outcome(Outcome(kind="died", message=message + _last_words(failure), rank=rank))
        sys.exit(1)


def _last_words(failure: ProcessFailure) -> str:
    path = Path(failure.error_file).with_name("stderr.log")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return ". Its last words:\n  " + "\n  ".join(lines[-_LAST_LINES:]) if lines else "."


if __name__ == "__main__":
    main()
