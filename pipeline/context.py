"""Context: what a stage is handed. A stage reads it and never changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pipeline.artifacts import Artifact, TrainedModel
from pipeline.device import CPU, Device
from pipeline.errors import MissingArtifact
from pipeline.events import EventLog
from pipeline.interrupt import StopFlag
from pipeline.report.blocks import Section, save_section

A = TypeVar("A")


def nobody_to_call() -> None:
    """Stand in where a run is one process."""


def no_rehearsal(_: TrainedModel) -> None:
    """Stand in where no later stage is there to rehearse with."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a stage works, what it works from, and how it talks."""

    dir: Path
    """The stage's own folder, absolute: the only place it writes to. Kept when interrupted."""
    device: Device = CPU
    seed: int = 0
    artifacts: Mapping[type, Artifact] = field(default_factory=dict)
    events: EventLog = field(default_factory=EventLog)
    stop: StopFlag = field(default_factory=StopFlag)
    """Poll ``stop.check()`` in every loop: train, eval, warm-up, calibration, build."""
    call: Callable[[], None] = nobody_to_call
    """Call the other processes of the run into this stage (`pipeline.stage.Joins`)."""
    rehearse: Callable[[TrainedModel], None] = no_rehearsal
    """Send an untrained model through every later stage; raises what would fail then."""

    def get(self, kind: type[A]) -> A:
        """Return the artifact of that type.

        Raises:
            MissingArtifact: no earlier stage left one.
        """
        artifact = self.artifacts.get(kind)
        if artifact is None:
            have = ", ".join(sorted(t.__name__ for t in self.artifacts)) or "none"
            raise MissingArtifact(
                f"{kind.__name__} is not there (artifacts at hand: {have}). "
                "Run the stage that produces it first."
            )
        assert isinstance(artifact, kind)
        return artifact

    def write_section(self, section: Section) -> None:
        """Leave this stage's part of the report in its folder."""
        save_section(section, self.dir)
