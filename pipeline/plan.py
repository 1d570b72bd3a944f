"""Plan: for each stage whether it runs or is served from cache, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cache import Fingerprint, differences, fingerprint, goes_on, load_fingerprint
from pipeline.config import ChainConfig, StageEntry
from pipeline.device import Device
from pipeline.errors import ConfigError, MissingArtifact, nearest
from pipeline.run_folder import RunFolder
from pipeline.store import changed_files, saved_digest

Action = Literal["run", "resume", "cached", "given", "skip"]
WORK = ("run", "resume")
"""The actions in which a stage works."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happens to one stage, and the reason in words."""

    entry: StageEntry
    action: Action
    """``given``: outside the requested range, its earlier artifact is used as it is."""
    reason: str
    fingerprint: Fingerprint | None = None
    """None while it depends on a stage that has yet to run."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Which part of a chain was asked for."""

    first: str | None = None
    last: str | None = None
    force: bool = False
    """Run even what could be served from cache."""

    def of(self, entries: Sequence[StageEntry]) -> range:
        """Return the positions from `first` to `last`.

        Raises:
            ConfigError: a name is not in the chain, or the two are in the wrong order.
        """
        names = [entry.name for entry in entries]
        for option, name in (("--from", self.first), ("--until", self.last)):
            if name is not None and name not in names:
                raise ConfigError(
                    f"{option}: {name!r} is no stage of this chain. Allowed: {', '.join(names)}."
                    + nearest(name, names)
                )
        start = names.index(self.first) if self.first else 0
        stop = names.index(self.last) + 1 if self.last else len(names)
        if start >= stop:
            raise ConfigError(
                f"--until: {self.last!r} comes before --from {self.first!r}. Swap them."
            )
        return range(start, stop)


def make_plan(
    chain: ChainConfig, folder: RunFolder, device: Device, wanted: Range | None = None
) -> list[Step]:
    """Decide for every stage of the chain; writes nothing."""
    wanted = wanted or Range()
    positions = wanted.of(chain.stages)
    steps: list[Step] = []
    for position, entry in enumerate(chain.stages):
        if position not in positions:
            steps.append(plan_outside(entry, folder, before=position < positions.start))
        else:
            steps.append(plan_step(chain, entry, steps, folder, device, force=wanted.force))
    return steps


def plan_step(
    chain: ChainConfig,
    entry: StageEntry,
    earlier: Sequence[Step],
    folder: RunFolder,
    device: Device,
    *,
    force: bool,
) -> Step:
    """Decide for one stage, given what happens to those before it."""
    sources = input_sources(entry, [step.entry for step in earlier])
    pending = [
        step.entry.name
        for step in earlier
        if step.entry.name in sources.values() and step.action in WORK
    ]
    if pending:
        return Step(entry=entry, action="run", reason=f"{pending[0]} runs before it")
    inputs = input_digests(chain, entry, sources, folder)
    now = fingerprint(entry, inputs, device=device, seed=chain.settings.seed)
    action, reason = _decide(folder, entry.name, now, force=force)
    return Step(entry=entry, action=action, reason=reason, fingerprint=now)


def _decide(folder: RunFolder, name: str, now: Fingerprint, *, force: bool) -> tuple[Action, str]:
    if goes_on(load_fingerprint(folder.partial(name)), now):
        return "resume", "an interrupted attempt with the same settings is there"
    if force:
        return "run", "asked for"
    before = load_fingerprint(folder.stage(name))
    if before is None:
        return "run", "no earlier result"
    changes = differences(before, now)
    if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        return "run", ", ".join(changes[:3]) + more
    try:
        damage = changed_files(folder.stage(name))
    except MissingArtifact:
        damage = ["its artifact is missing or damaged"]
    if damage:
        return "run", ", ".join(damage[:3])
    return "cached", "nothing it depends on has changed"


def plan_outside(entry: StageEntry, folder: RunFolder, *, before: bool) -> Step:
    """Decide for a stage that was not asked for: what it left earlier may still be needed."""
    if before and folder.has_artifact(entry.name):
        return Step(entry=entry, action="given", reason="its earlier artifact is used as it is")
    return Step(entry=entry, action="skip", reason="not asked for")


def input_sources(entry: StageEntry, earlier: Sequence[StageEntry]) -> dict[type, str]:
    """Return where each required type comes from: named in `inputs`, or the latest."""
    sources: dict[type, str] = {}
    for kind in entry.stage.requires:
        makers = [e.name for e in earlier if e.stage.produces is kind]
        named = [name for name in makers if name in entry.inputs]
        if makers:
            sources[kind] = (named or makers)[-1]
    return sources


def check_inputs(chain: ChainConfig, folder: RunFolder, positions: range) -> None:
    """Find out before anything runs that an artifact from outside the range is missing.

    Raises:
        MissingArtifact: one is not there.
    """
    for position in positions:
        entry = chain.stages[position]
        sources = input_sources(entry, chain.stages[:position])
        wanted = {chain.stages[p].name for p in positions}
        names = [earlier.name for earlier in chain.stages[:position]]
        # What is made last goes first: running up to there makes the rest as well.
        for kind in sorted(
            entry.stage.requires, key=lambda k: names.index(sources[k]) if k in sources else -1,
            reverse=True,
        ):  # fmt: skip
            if sources.get(kind) not in wanted:
                artifact_folder(chain, kind, sources, folder, entry.name)


def input_digests(
    chain: ChainConfig, entry: StageEntry, sources: dict[type, str], folder: RunFolder
) -> dict[str, str]:
    """Return the content digest of each input artifact.

    Raises:
        MissingArtifact: one is not there.
    """
    return {
        kind.__name__: saved_digest(artifact_folder(chain, kind, sources, folder, entry.name))
        for kind in entry.stage.requires
    }


def artifact_folder(
    chain: ChainConfig, kind: type, sources: dict[type, str], folder: RunFolder, wanted_by: str
) -> Path:
    """Return the folder that holds the artifact of a type: of this run, or of `artifacts_from`.

    Raises:
        MissingArtifact: there is none.
    """
    if kind in sources:
        found = folder.stage(sources[kind])
        if folder.has_artifact(sources[kind]):
            return found
        raise MissingArtifact(
            f"{wanted_by}: needs the {kind.__name__} of '{sources[kind]}'; it is not in {found}. "
            f"Run `dlpipe run {chain.file} --until {sources[kind]}` first."
        )
    if chain.settings.artifacts_from:
        other = RunFolder(Path(chain.settings.artifacts_from)).find(kind)
        if other is not None:
            return other
    where = chain.settings.artifacts_from or folder.path
    raise MissingArtifact(f"{wanted_by}: needs a {kind.__name__}, and {where} holds none.")
