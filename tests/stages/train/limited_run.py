"""One run of the train stage under a limit of memory; prints what happened as JSON.

python limited_run.py FOLDER MEGABYTES ON_OOM
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from conftest import Recorder, write_spec

from pipeline.context import Context
from pipeline.errors import StageFailed
from pipeline.events import Event, EventLog
from stages.train.config import TrainConfig
from stages.train.stage import Train

RECIPE = {
    "model": "greedy_net:greedy_net", "epochs": 1, "precision": "fp32", "threads": 1,
    "tensorboard": False, "ema": False, "optimizer": {"lr": 0.01},
    "schedule": {"warmup_epochs": 0},
}  # fmt: skip


def limit_at_first_step(event: Event, megabytes: int) -> None:
    """Leave so much beyond what the process holds once everything is loaded."""
    if event.kind == "progress" and event.fields["label"] == "train":
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        held = int(status["VmData"].split()[0]) * 1024
        if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_DATA, (held + megabytes * 2**20, -1))


def main(folder: Path, megabytes: int, on_oom: str) -> None:
    recorder = Recorder(on_event=lambda event: limit_at_first_step(event, megabytes))
    spec = write_spec(folder)
    config = TrainConfig.model_validate(RECIPE | {"on_oom": on_oom})
    ctx = Context(dir=folder, artifacts={type(spec): spec}, events=EventLog((recorder,)))
    answer: dict[str, object] = {"failed": ""}
    try:
        answer["metrics"] = Train(config).run(ctx).metrics
    except StageFailed as error:
        answer["failed"] = str(error)
    answer["halved to"] = [e.fields["micro_batches"] for e in recorder.of("out of memory")]
    answer["warnings"] = recorder.messages("warning")
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
