"""``dlpipe plan``: what would run, what is cached, and why."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.check import check_chain, load_checked, resolve_chain_device
from pipeline.plan import Range, check_inputs, make_plan
from pipeline.run_folder import RunFolder

_COLOURS = {"run": "yellow", "resume": "cyan", "cached": "green", "given": "green", "skip": "dim"}


def run(options: argparse.Namespace) -> int:
    """Print the plan; writes nothing."""
    chain = load_checked(options.config, options.overrides)
    device = resolve_chain_device(chain)
    wanted = Range(first=options.first, last=options.last, force=options.force)
    positions = wanted.of(chain.stages)
    check_chain(chain, device, [chain.stages[position] for position in positions])
    folder = RunFolder(options.runs_dir / chain.settings.name)
    check_inputs(chain, folder, positions)
    table = Table("stage", "action", "why", box=None, pad_edge=False)
    for step in make_plan(chain, folder, device, wanted):
        action = Text(step.action, style=_COLOURS[step.action])
        table.add_row(step.entry.name, action, Text(step.reason))
    console = Console()
    console.print(f"{folder.path} on {device}", highlight=False)
    console.print(table)
    return 0
