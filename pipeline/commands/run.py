"""``dlpipe run``: the chain, or a part of it."""

from __future__ import annotations

import argparse
import sys

from pipeline.check import load_checked
from pipeline.config import ChainConfig
from pipeline.console import TerminalConsole, open_console
from pipeline.errors import GateFailed
from pipeline.fast_dev_run import load_shortened
from pipeline.follow import follow, place_in
from pipeline.plan import Range
from pipeline.run_folder import RunFolder
from pipeline.runner import Runner


def run(options: argparse.Namespace) -> int:
    """Run the wanted stages; a gate that fails is an exit code of its own."""
    load = load_shortened if options.fast_dev_run else load_checked
    chain = load(options.config, options.overrides)
    force = options.force or options.fast_dev_run
    wanted = Range(first=options.first, last=options.last, force=force)
    return execute(chain, RunFolder(options.runs_dir / chain.settings.name), wanted)


def execute(chain: ChainConfig, folder: RunFolder, wanted: Range) -> int:
    """Run with a console, then say where the report is; return the exit code.

    Where several processes run this command together, all but the first follow it.

    Raises:
        GateFailed: everything ran, and a gate did not hold.
    """
    place = place_in(chain)
    if place.follows:
        return follow(chain, folder, place)
    console = open_console()
    try:
        runner = Runner(
            chain=chain, folder=folder, wanted=wanted, listeners=(console,), place=place
        )
        record = runner.run()
    finally:
        if isinstance(console, TerminalConsole):
            console.close()
    sys.stdout.write(f"report: {folder.path / 'report.html'}\n")
    failed = record.failed_gates
    if failed:
        lines = [f"gate failed: {stage}: {gate.name}: {gate.message}" for stage, gate in failed]
        raise GateFailed("\n".join(lines))
    return 0
