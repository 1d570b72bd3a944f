"""Runs the train stage in several processes, forked after the imports, which are paid for once.

usage: ranks.py FOLDER < a JSON list of scenarios

    {"name": "ddp", "world": 2, "recipe": {...}, "kill": {"rank": 1, "step": 5}}

Prints a JSON list: for each scenario the exit status of each rank and what it printed last.
A scenario of the same name goes on where the one before it stopped.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from conftest import write_spec

import stages.train.distributed.data_parallel
import stages.train.session  # noqa: F401
from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.events import Event, EventLog
from pipeline.interrupt import StopFlag
from pipeline.store import save_artifact
from stages.train.config import TrainConfig
from stages.train.stage import Train

LIMIT_S = 240


@dataclass
class Actor:
    """Does to its own process what the scenario says, at a step."""

    scenario: dict[str, dict[str, int]]
    rank: int
    stop: StopFlag

    def receive(self, event: Event) -> None:
        ends = self.rank == 0 and self.scenario.get("end_at_epoch")
        if event.kind == "epoch" and ends:
            os.kill(os.getpid(), signal.SIGKILL)
        if event.kind == "warning":
            sys.stderr.write(f"rank {self.rank}: {event.fields['message']}\n")


def run_rank(scenario: dict, folder: Path, spec: DataSpec, rank: int, port: int) -> None:
    """Train as one of the ranks and leave how it went as JSON."""
    world = scenario["world"]
    if world > 1 or scenario.get("launched"):
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        }  # fmt: skip
    kill = scenario.get("kill", {})
    if kill.get("rank") == rank:
        os.environ["KILL_AT"] = str(kill["step"])
    stop = StopFlag()
    halt = scenario.get("stop", {})
    if halt.get("rank") == rank:
        os.environ["STOP_AT"] = str(halt["step"])
        import nets

        nets.on_step = lambda: stop.request("SIGTERM")
    config = TrainConfig.model_validate(scenario["recipe"])
    report: dict[str, object] = {"error": ""}
    try:
        ctx = Context(
            dir=folder, artifacts={DataSpec: spec}, stop=stop,
            events=EventLog((Actor(scenario, rank, stop),)),
        )  # fmt: skip
        stage = Train(config)
        if rank == 0:
            trained = stage.run(ctx)
            report |= {"metrics": dict(trained.metrics)}
        else:
            stage.follow(ctx)
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {error}"
        if os.environ.get("SHOW"):
            traceback.print_exc()
    (folder / f"report-{rank}.json").write_text(json.dumps(report))


def run_scenario(scenario: dict, root: Path, spec: DataSpec) -> list[dict[str, object]]:
    """Run all ranks; return for each what it left, or the signal that ended it."""
    folder = root / scenario["name"]
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    pids = []
    for rank in range(scenario["world"]):
        (folder / f"report-{rank}.json").unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            signal.alarm(LIMIT_S)
            torch.set_num_threads(1)
            run_rank(scenario, folder, spec, rank, port)
            sys.stderr.flush()
            os._exit(0)
        pids.append(pid)
    began, ends = time.monotonic(), []
    for rank, pid in enumerate(pids):
        _, status = os.waitpid(pid, 0)
        report = folder / f"report-{rank}.json"
        left = json.loads(report.read_text()) if report.is_file() else {}
        ends.append({**left, "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0})
    sys.stderr.write(f"{scenario['name']}: {time.monotonic() - began:.1f} s\n")
    return ends


def write_data(folder: Path) -> DataSpec:
    """Write pictures that no random transform changes, and an odd number of them to evaluate."""
    spec = write_spec(folder)
    spec.transforms.write_text(json.dumps({"train": [], "eval": []}))
    for name in ("eval_images.npy", "eval_labels.npy"):
        np.save(folder / name, np.load(folder / name)[:47])
    return spec


def main() -> None:
    root = Path(sys.argv[1])
    data = root / "data"
    data.mkdir(parents=True, exist_ok=True)
    spec = write_data(data)
    save_artifact(spec, data)
    scenarios = json.load(sys.stdin)
    sys.stdout.write(json.dumps([run_scenario(one, root, spec) for one in scenarios]))


main()
