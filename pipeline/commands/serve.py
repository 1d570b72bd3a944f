"""``dlpipe serve``: the model of a finished run, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.check import resolve_chain_device
from pipeline.commands.report import find_run
from pipeline.config import load_config, make_importable
from pipeline.console import TerminalConsole, open_console
from pipeline.context import Context
from pipeline.errors import ConfigError, MissingArtifact
from pipeline.events import EventLog
from pipeline.interrupt import StopFlag, catch_signals
from pipeline.run_folder import RunFolder
from pipeline.stage import Serves
from pipeline.store import load_artifact


def run(options: argparse.Namespace) -> int:
    """Start the server of the last stage that can serve, and stay."""
    folder = RunFolder(find_run(options.run, options.runs_dir))
    document = json.loads((folder.path / "run.json").read_text(encoding="utf-8"))
    make_importable(Path(document["config_folder"]))  # where stages of the user's own may lie
    chain = load_config(folder.path / "config.yaml")
    built = [(entry, entry.build()) for entry in chain.stages]
    serving = [(entry, stage) for entry, stage in built if isinstance(stage, Serves)]
    if not serving:
        raise ConfigError(f"{folder.path}: no stage of this run can serve. Add a deploy stage.")
    entry, stage = serving[-1]
    if not folder.has_artifact(entry.name):
        raise MissingArtifact(
            f"{folder.path}: the stage '{entry.name}' has not finished. Run the chain first."
        )
    artifact = load_artifact(entry.stage.produces, folder.stage(entry.name))
    scratch = folder.path.absolute() / "serving"
    scratch.mkdir(exist_ok=True)
    stop, console = StopFlag(), open_console()
    context = Context(
        dir=scratch,
        device=resolve_chain_device(chain),
        seed=chain.settings.seed,
        events=EventLog((console,), stage=entry.name),
        stop=stop,
    )
    try:
        with catch_signals(stop):
            stage.serve(context, artifact, http_port=options.http_port, grpc_port=options.grpc_port)
    finally:
        if isinstance(console, TerminalConsole):
            console.close()
    return 0
