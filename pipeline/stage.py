"""Stage: the one contract of the chain, and the table from a name to the class behind it.

    class Train:
        requires = (DataSpec,)
        produces = TrainedModel
        Config = TrainConfig
        backends = ()
        def __init__(self, config: TrainConfig) -> None: ...
        def run(self, ctx: Context) -> TrainedModel: ...

A stage reads ``ctx``, writes only inside ``ctx.dir``, and returns its artifact; the runner files
it. The module of a stage is light (it imports its heavy parts inside `run`), so that a
configuration can be checked in an instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, JsonValue

from pipeline.artifacts import Artifact, Kind
from pipeline.backend import Backend
from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import ConfigError, Problem, choices, nearest
from pipeline.ranks import Place
from pipeline.report.blocks import Block

ENTRY_POINT_GROUP = "dlpipe.stages"


class StageConfig(BaseModel):
    """What every stage's configuration has in common: frozen, strict, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )
    means: ClassVar[frozenset[str]] = frozenset()
    """Settings that say by what means the work is done: when one changes, a finished result is made
    again, but an interrupted attempt goes on."""


class Stage(Protocol):
    """One link of the chain."""

    requires: ClassVar[tuple[type, ...]]
    produces: ClassVar[type[Artifact]]
    Config: ClassVar[type[StageConfig]]
    backends: ClassVar[tuple[Backend, ...]]
    """Every backend the stage can choose from, best first; empty when it has no choice. A stage
    that works with all of them at once also says ``uses_every_backend = True``."""

    def run(self, ctx: Context) -> Artifact:
        """Do the work and return what it left in ``ctx.dir``."""
        ...


@runtime_checkable
class Checks(Protocol):
    """A stage that can find problems before anything runs, beyond what its Config says."""

    def check(self, device: Device) -> list[Problem]:
        """Return problems; `Problem.path` is relative to the stage's mapping in the YAML."""
        ...


@runtime_checkable
class Holds(Protocol):
    """A stage that brings data into the chain, and knows of what kind before it looks at any."""

    def data_kind(self) -> Kind:
        """Return what its samples are."""
        ...


@runtime_checkable
class ChecksKind(Protocol):
    """A stage whose settings may go with some kinds of data only."""

    def check_kind(self, kind: Kind) -> list[Problem]:
        """Return what does not go with the data it is going to get; paths as in `Checks`."""
        ...


@runtime_checkable
class Warns(Protocol):
    """A stage that can tell of settings that are possible and seldom meant."""

    def warnings(self) -> list[Problem]:
        """Return what to look at before anything runs; paths as in `Checks`."""
        ...


@runtime_checkable
class Fingerprints(Protocol):
    """A stage whose result depends on more than its configuration and its input artifacts."""

    def fingerprint(self, device: Device) -> Mapping[str, str]:
        """Return what else matters, by name: the data set's state, vendor versions."""
        ...


@runtime_checkable
class Rehearses(Protocol):
    """A stage that can run in seconds on an untrained model, before training."""

    def rehearse(self, ctx: Context) -> Artifact:
        """Do the shortest honest version of `run` on a few samples."""
        ...


@runtime_checkable
class Shortens(Protocol):
    """A stage that can do all it does in seconds, with a result good for nothing else."""

    def fast_dev_run(self) -> Mapping[str, JsonValue]:
        """Return the settings that shorten it, by their path in its mapping."""
        ...


@runtime_checkable
class Serves(Protocol):
    """A stage whose artifact can be served to clients: what `dlpipe serve` looks for."""

    def serve(self, ctx: Context, artifact: Artifact, *, http_port: int, grpc_port: int) -> None:
        """Serve until ``ctx.stop`` is set, writing only into ``ctx.dir``."""
        ...


@runtime_checkable
class Joins(Protocol):
    """A stage in which several processes of a run may work together.

    Rank 0's `run` calls the others by ``ctx.call()``; each of them then enters `follow`.
    """

    def place(self) -> Place:
        """Return which process this is where the YAML says that several hosts run the command.

        Raises:
            ConfigError: this is none of those hosts.
        """
        ...

    def follow(self, ctx: Context) -> None:
        """Work beside rank 0 until the stage is over; write nothing into ``ctx.dir``."""
        ...


@runtime_checkable
class Plans(Protocol):
    """A stage that can tell what devices could do for it: what `dlpipe plan --devices` asks."""

    def plan_devices(self, ctx: Context, *, devices: int, memory: int) -> tuple[Block, ...]:
        """Return tables for up to so many devices of so many bytes; writes nothing.

        Raises:
            MissingArtifact: it needs what another stage has not left yet.
        """
        ...


@runtime_checkable
class Foretells(Protocol):
    """A stage that can describe its artifact before it ran."""

    def foretell(self) -> Artifact | None:
        """Return the artifact as far as it can be known at once, or None if it cannot."""
        ...


def stage_table() -> dict[str, EntryPoint]:
    """Return every installed stage by name, from the entry points ``dlpipe.stages``."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_stage(name: str) -> type[Stage]:
    """Return the stage class for a name or for a dotted path ``package.module:Class``.

    Raises:
        ConfigError: there is no such stage, or it cannot be imported.
    """
    try:
        if ":" in name:
            module, _, attribute = name.partition(":")
            loaded: type[Stage] = getattr(import_module(module), attribute)
        else:
            table = stage_table()
            if name not in table:
                raise ConfigError(
                    f"{name!r} is no stage. Allowed: {choices(sorted(table))}, or a dotted path "
                    f"'package.module:Class'.{nearest(name, table)}"
                )
            loaded = table[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the stage {name!r} cannot be imported: {error}.") from error
    missing = [a for a in ("requires", "produces", "Config", "run") if not hasattr(loaded, a)]
    if missing:
        raise ConfigError(f"{name!r} is no stage: it lacks {choices(missing)}.")
    return loaded
