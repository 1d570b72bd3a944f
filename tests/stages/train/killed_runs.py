"""Trains once undisturbed and once killed again and again; prints the hash of both results.

usage: killed_runs.py FOLDER KILL_AT...

Each attempt is a process of its own, forked after the imports, so that they are paid for once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest import RECIPE, write_spec

import stages.train.session  # noqa: F401
from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.files import sha256_file
from stages.train.config import TrainConfig
from stages.train.stage import Train


def attempt(folder: Path, spec: DataSpec, kill_at: int) -> bool:
    """Train in a process that dies at that step of its own (0: never); return whether it died."""
    process = os.fork()
    if process == 0:
        os.environ["KILL_AT"] = str(kill_at)
        recipe = {**RECIPE, "precision": "bf16", "checkpoint": {"every_steps": 4}}
        folder.mkdir(exist_ok=True)
        Train(TrainConfig.model_validate(recipe)).run(
            Context(dir=folder, artifacts={DataSpec: spec})
        )
        os._exit(0)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def main() -> None:
    root = Path(sys.argv[1])
    data = root / "data"
    data.mkdir()
    spec = write_spec(data)
    attempt(root / "undisturbed", spec, kill_at=0)
    deaths = sum(attempt(root / "killed", spec, int(at)) for at in sys.argv[2:])
    attempt(root / "killed", spec, kill_at=0)
    for name in ("undisturbed", "killed"):
        sys.stdout.write(f"{name} {sha256_file(root / name / 'model.safetensors')}\n")
    sys.stdout.write(f"deaths {deaths}\n")


main()
