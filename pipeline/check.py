"""Check: everything that can be known to be wrong before the first stage starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import Kind
from pipeline.backend import available, select
from pipeline.config import ChainConfig, InvalidChain, StageEntry, load_config
from pipeline.device import Device, resolve_device
from pipeline.errors import BackendUnavailable, ConfigError, Problem
from pipeline.plan import input_sources
from pipeline.stage import Checks, ChecksKind, Holds, Warns


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a stage's ``backend:`` stands for on this machine."""

    stage: str
    choice: str
    backends: tuple[str, ...]
    reason: str


def load_checked(path: Path, overrides: Sequence[str]) -> ChainConfig:
    """Load a configuration; if it has problems, look on in the stages that could be read.

    Raises:
        ConfigError: with every problem found, those of backends, models and data sets included.
    """
    try:
        return load_config(path, overrides)
    except InvalidChain as error:
        further = stage_problems(error.entries, resolve_device("auto"), error.entries)[0]
        raise ConfigError([*error.problems, *further]) from error


def resolve_chain_device(chain: ChainConfig) -> Device:
    """Resolve the chain's device.

    Raises:
        ConfigError: the machine has no such device; the problem has its place in the file.
    """
    try:
        return resolve_device(chain.settings.device)
    except ConfigError as error:
        root = chain.node.value
        assert isinstance(root, dict)
        place = root["device"].place if "device" in root else chain.node.place
        raise ConfigError([place.problem(str(error).removeprefix("device: "), "device")]) from error


def check_chain(
    chain: ChainConfig, device: Device, entries: Sequence[StageEntry] | None = None
) -> list[Resolved]:
    """Resolve every backend and let every stage look for problems; runs nothing.

    Raises:
        ConfigError: with every problem found.
    """
    wanted = chain.stages if entries is None else entries
    problems, resolved = stage_problems(wanted, device, chain.stages)
    if problems:
        raise ConfigError(problems)
    return resolved


def stage_problems(
    entries: Sequence[StageEntry], device: Device, chain: Sequence[StageEntry]
) -> tuple[list[Problem], list[Resolved]]:
    """Resolve the backends of these stages of a chain and let them look for problems."""
    problems: dict[tuple[str, str], Problem] = {}
    resolved: list[Resolved] = []
    for entry in entries:
        found: list[Problem] = []
        try:
            resolved += resolve_backends(entry, device)
        except BackendUnavailable as error:
            message = str(error).removeprefix(f"stages.{entry.name}.backend: ")
            found.append(Problem(message=message, path="backend"))
        stage = entry.build()
        if isinstance(stage, ChecksKind):
            found += [
                problem for kind in kinds_for(entry, chain) for problem in stage.check_kind(kind)
            ]
        if isinstance(stage, Checks):
            found += stage.check(device)
        for problem in found:  # the engine's word on a path goes before the stage's own
            problems.setdefault((entry.name, problem.path), entry.problem(problem))
    return list(problems.values()), resolved


def kinds_for(entry: StageEntry, chain: Sequence[StageEntry]) -> list[Kind]:
    """Return of what kind the data is that a stage is going to get, as far as it is known."""
    earlier = chain[: [each.name for each in chain].index(entry.name)]
    sources = input_sources(entry, earlier).values()
    return [
        stage.data_kind()
        for each in earlier
        if each.name in sources and isinstance(stage := each.build(), Holds)
    ]


def chain_warnings(entries: Sequence[StageEntry]) -> list[Problem]:
    """Return what in these stages' settings is possible and seldom meant."""
    return [
        entry.problem(warning)
        for entry in entries
        if isinstance(stage := entry.build(), Warns)
        for warning in stage.warnings()
    ]


def resolve_backends(entry: StageEntry, device: Device) -> list[Resolved]:
    """Resolve what a stage's ``backend:`` names: one name, ``auto``, or a list of names."""
    if not entry.stage.backends:
        return []
    choice = getattr(entry.config, "backend", "auto")
    where = f"stages.{entry.name}.backend"
    every = choice == "auto" and getattr(entry.stage, "uses_every_backend", False)
    if every:
        choice = [backend.name for backend in available(entry.stage.backends, device)]
    elif isinstance(choice, str):
        selection = select(entry.stage.backends, choice, device, where=where)
        return [
            Resolved(
                stage=entry.name,
                choice=choice,
                backends=(selection.backend.name,),
                reason=selection.reason,
            )
        ]
    for name in choice:
        select(entry.stage.backends, name, device, where=where)
    passed = [
        f"{backend.name}: {backend.why_not(device)}"
        for backend in entry.stage.backends
        if every and backend.name not in choice
    ]
    reason = f"backends {', '.join(choice)}" + (
        f" (passed over {'; '.join(passed)})" if passed else ""
    )
    return [
        Resolved(
            stage=entry.name,
            choice="auto" if every else ", ".join(choice),
            backends=tuple(choice),
            reason=reason,
        )
    ]
