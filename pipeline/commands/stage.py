"""``dlpipe stage``: one stage, from the artifacts of an earlier run."""

from __future__ import annotations

import argparse

from pipeline.check import load_checked
from pipeline.commands.run import execute
from pipeline.errors import ConfigError, choices, nearest
from pipeline.plan import Range
from pipeline.run_folder import RunFolder


def run(options: argparse.Namespace) -> int:
    """Run the stage even if its result could come from cache: it was asked for by name."""
    chain = load_checked(options.config, options.overrides)
    names = [entry.name for entry in chain.stages]
    if options.stage not in names:
        raise ConfigError(
            f"{options.stage!r} is no stage of {options.config}. Allowed: {choices(names)}."
            + nearest(options.stage, names)
        )
    wanted = Range(first=options.stage, last=options.stage, force=True)
    return execute(chain, RunFolder(options.runs_dir / chain.settings.name), wanted)
