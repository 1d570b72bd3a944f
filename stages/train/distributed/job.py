"""Job: what the processes of one launch are told, and what they leave, as files in one folder.

job/
job.json  data/            the configuration, the context, the data set
worker-0.json              rank 0: its process id and host
events-0.jsonl             what it says, line by line
outcome-0.json             how it ended, unless it died
result/                    the artifact, by rank 0
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.device import Device
from pipeline.events import Event
from pipeline.files import write_atomic
from pipeline.store import load_artifact, save_artifact
from stages.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a process ended."""

    kind: str
    """``done``, ``died``, or the class of the error."""
    message: str
    rank: int


@dataclass(frozen=True, slots=True)
class Job:
    """The folder of one launch, on a file system that all hosts see."""

    folder: Path

    @property
    def result(self) -> Path:
        """Where rank 0 leaves the artifact."""
        return self.folder / "result"

    def write(self, config: TrainConfig, ctx: Context, run_id: str) -> None:
        """Write what the processes need."""
        (self.folder / "data").mkdir(parents=True)
        save_artifact(ctx.get(DataSpec), self.folder / "data")
        document = {
            "id": run_id,
            "config": config.model_dump(mode="json"),
            "dir": str(ctx.dir),
            "device": [ctx.device.kind, ctx.device.index],
            "seed": ctx.seed,
            "stage": ctx.events.stage,
        }
        write_atomic(self.folder / "job.json", json.dumps(document, indent=1))

    def read(self) -> tuple[TrainConfig, Context, str]:
        """Return the configuration, a silent context, and the id of the launch."""
        document = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        kind, index = document["device"]
        ctx = Context(
            dir=Path(document["dir"]),
            device=Device(kind, index),
            seed=document["seed"],
            artifacts={DataSpec: load_artifact(DataSpec, self.folder / "data")},
        )
        # By way of JSON, in which strict models take lists for tuples.
        config = TrainConfig.model_validate_json(json.dumps(document["config"]))
        return config, ctx, str(document["id"])

    def enter(self, rank: int, pid: int, host: int) -> int:
        """Note which process on which host a rank is; return how often it was there before."""
        path = self.folder / f"worker-{rank}.json"
        before = json.loads(path.read_text())["starts"] if path.is_file() else 0
        write_atomic(path, json.dumps({"pid": pid, "host": host, "starts": before + 1}))
        return int(before)

    def pids_on(self, host: int) -> list[int]:
        """Return the processes on a host, by rank."""
        found = [json.loads(path.read_text()) for path in sorted(self.folder.glob("worker-*.json"))]
        return [int(worker["pid"]) for worker in found if worker["host"] == host]

    def leave_outcome(self, outcome: Outcome) -> None:
        """Note how a process ended; what it noted before is no longer true."""
        path = self.folder / f"outcome-{outcome.rank}.json"
        write_atomic(path, json.dumps(asdict(outcome)))

    def outcomes(self) -> list[Outcome]:
        """Return how processes ended so far, by rank."""
        paths = sorted(self.folder.glob("outcome-*.json"))
        return [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


@dataclass(frozen=True, slots=True)
class EventFile:
    """A listener that writes every event, progress too, as a line of a file."""

    path: Path

    def receive(self, event: Event) -> None:
        """Append one event."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([event.kind, event.time, event.fields], default=str) + "\n")


class Relay:
    """Reads the events of all ranks as they come."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder, self.stage = folder, stage
        self._offsets: dict[Path, int] = {}

    def news(self) -> Iterator[Event]:
        """Yield what has been written in whole lines since the last call."""
        for path in sorted(self.folder.glob("events-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offsets[path] = self._offsets.get(path, 0) + len(line)
                    kind, time, fields = json.loads(line)
                    yield Event(kind=kind, time=time, stage=self.stage, fields=fields)
