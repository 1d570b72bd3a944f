"""Worker: one process of a launch (``python -m stages.train.distributed.worker JOB HOST``).

It ends with 0 when it has said how it ended, well or not: starting it again would change nothing.
Any other end (a signal, a lost connection, a crash) has all processes started again.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import DlpipeError
from pipeline.events import Event, EventLog, Listener
from pipeline.interrupt import StopFlag, catch_signals
from pipeline.store import save_artifact
from stages.train.distributed.family import die_with_parent
from stages.train.distributed.job import EventFile, Job, Outcome


@dataclass(frozen=True, slots=True)
class _WarningsOf:
    """Lets pass what a rank other than the first has to say."""

    place: str
    listener: Listener

    def receive(self, event: Event) -> None:
        if event.kind == "warning":
            message = f"{self.place}: {event.fields['message']}"
            self.listener.receive(replace(event, fields={"message": message}))


def main() -> None:
    """Train as one of the processes of a job."""
    die_with_parent()
    from stages.train.distributed.group import LostRank
    from stages.train.session import train

    job, host = Job(Path(sys.argv[1])), int(sys.argv[2])
    rank = int(os.environ["RANK"])
    config, ctx, _ = job.read()
    listener: Listener = EventFile(job.folder / f"events-{rank}.jsonl")
    if rank:
        listener = _WarningsOf(f"rank {rank} on {socket.gethostname()}", listener)
    ctx = replace(ctx, events=EventLog((listener,)), stop=StopFlag())
    try:
        with catch_signals(ctx.stop):
            restarts = job.enter(rank, os.getpid(), host)
            if restarts and rank == 0:
                ctx.events.emit("restart", count=restarts)
                ctx.events.warning(
                    f"restart {restarts}: all processes go on from the last checkpoint"
                )
            trained = train(config, ctx)
        if rank == 0:
            job.result.mkdir(exist_ok=True)
            save_artifact(trained, job.result)
        job.leave_outcome(Outcome(kind="done", message="", rank=rank))
    except LostRank as error:
        sys.exit(str(error))
    except DlpipeError as error:
        job.leave_outcome(Outcome(kind=type(error).__name__, message=str(error), rank=rank))


if __name__ == "__main__":
    main()
