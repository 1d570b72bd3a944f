"""``dlpipe plan``: what would run, what is cached, and why; or what so many devices could do."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.artifacts import Artifact
from pipeline.check import check_chain, load_checked, resolve_chain_device
from pipeline.commands.printing import print_block
from pipeline.config import ChainConfig, StageEntry
from pipeline.context import Context
from pipeline.errors import ConfigError, MissingArtifact
from pipeline.events import EventLog
from pipeline.plan import Range, artifact_folder, check_inputs, input_sources, make_plan
from pipeline.run_folder import RunFolder
from pipeline.stage import Foretells, Plans
from pipeline.store import load_artifact

_COLOURS = {"run": "yellow", "resume": "cyan", "cached": "green", "given": "green", "skip": "dim"}


def run(options: argparse.Namespace) -> int:
    """Print the plan; writes nothing."""
    chain = load_checked(options.config, options.overrides)
    if options.devices is not None or options.memory is not None:
        return plan_devices(chain, options)
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


def plan_devices(chain: ChainConfig, options: argparse.Namespace) -> int:
    """Print what every stage that plans says about these devices."""
    memory = _memory(options)
    planning = [(e, stage) for e in chain.stages if isinstance(stage := e.build(), Plans)]
    if not planning:
        raise ConfigError(f"{chain.file}: no stage of this chain plans devices. Add a train stage.")
    folder = RunFolder(options.runs_dir / chain.settings.name)
    console = Console(soft_wrap=True, highlight=False)
    for entry, stage in planning:
        with TemporaryDirectory(prefix="dlpipe-plan-") as scratch:
            context = Context(
                dir=Path(scratch),
                device=resolve_chain_device(chain),
                seed=chain.settings.seed,
                artifacts=_inputs(chain, entry, folder),
                events=EventLog((), stage=entry.name),
            )
            blocks = stage.plan_devices(context, devices=options.devices, memory=memory)
        console.print(Text(f"{entry.name} of {chain.file}", style="bold"))
        for block in blocks:
            print_block(block, console)
    return 0


_LEAST_WITHOUT_UNIT = 1 << 20
"""Whoever gives fewer bytes, and no unit, means gigabytes."""


def _memory(options: argparse.Namespace) -> int:
    if options.devices is None or options.memory is None:
        raise ConfigError(
            "dlpipe plan: --devices and --memory belong together. Give both: "
            "--devices 8 --memory 16GB."
        )
    if options.devices < 1:
        raise ConfigError(f"--devices: {options.devices} compute nothing. Give 1 or more.")
    try:
        memory = int(TypeAdapter(ByteSize).validate_python(options.memory))
    except ValidationError as error:
        raise ConfigError(
            f"--memory: {options.memory!r} is no size. Give a number of bytes, or one with a "
            "unit, such as 16GB or 16GiB."
        ) from error
    if memory < _LEAST_WITHOUT_UNIT and options.memory.strip().isdecimal():
        raise ConfigError(
            f"--memory: {options.memory} is that many bytes. Give a unit, such as {memory or 16}GB."
        )
    return memory


def _inputs(chain: ChainConfig, entry: StageEntry, folder: RunFolder) -> dict[type, Artifact]:
    """Return what the stage requires: as left by an earlier run, or else as foretold."""
    earlier = chain.stages[: chain.stages.index(entry)]
    sources = input_sources(entry, earlier)
    found: dict[type, Artifact] = {}
    for kind in entry.stage.requires:
        try:
            at = artifact_folder(chain, kind, sources, folder, entry.name)
            found[kind] = load_artifact(kind, at)
        except MissingArtifact:
            makers = [one.build() for one in earlier if one.name == sources.get(kind)]
            told = [maker.foretell() for maker in makers if isinstance(maker, Foretells)]
            if not told or told[0] is None:
                raise
            found[kind] = told[0]
    return found
