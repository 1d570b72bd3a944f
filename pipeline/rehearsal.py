"""Rehearsal: the untrained model goes through every later stage before hours are spent on training.

An operator that cannot be exported, a batch axis that froze, a server that does not start: each
fails now.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.artifacts import Artifact
from pipeline.config import StageEntry
from pipeline.context import Context
from pipeline.errors import Interrupted, StageFailed
from pipeline.events import EventLog
from pipeline.stage import Rehearses


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A scratch folder and the context to rehearse in."""

    folder: Path
    context: Context

    def run(self, later: Sequence[StageEntry]) -> None:
        """Rehearse each later stage that can be rehearsed, each on what the one before it gave.

        Raises:
            StageFailed: a stage failed; the message names it.
        """
        stages = [
            (entry, stage) for entry in later if isinstance(stage := entry.build(), Rehearses)
        ]
        if not stages:
            return
        started = time.monotonic()
        artifacts: dict[type, Artifact] = dict(self.context.artifacts)
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            for entry, stage in stages:
                scratch = self.folder / entry.name
                scratch.mkdir(parents=True)
                events = EventLog(self.context.events.listeners, stage=f"rehearsal of {entry.name}")
                context = replace(self.context, dir=scratch, artifacts=artifacts, events=events)
                artifacts[entry.stage.produces] = self._one(entry, stage, context)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        names = ", ".join(entry.name for entry, _ in stages)
        seconds = time.monotonic() - started
        self.context.events.emit("rehearsal", stages=names, seconds=round(seconds, 1))
        self.context.events.info(f"rehearsal of {names} passed in {seconds:.1f} s")

    def _one(self, entry: StageEntry, stage: Rehearses, context: Context) -> Artifact:
        try:
            return stage.rehearse(context)
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, it would have failed after training
            raise StageFailed(
                f"rehearsal: the stage '{entry.name}' would have failed after training: {error} "
                "Mend it, or skip the rehearsal with rehearsal: false."
            ) from error
