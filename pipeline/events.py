"""One event stream: every event is a line of ``events.jsonl`` and goes to whoever else listens.

    ctx.events.info("backend dali-cpu (passed over dali-gpu: no CUDA device)")
    ctx.events.emit("epoch", epoch=3, loss=0.21, top1=0.981)
    with ctx.events.progress("train", total=88, unit="step") as bar:
        bar.advance(1, note="loss 0.21 · 3,900 img/s")

Listeners (console, TensorBoard) see the same events; a stage does not know who listens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

Value: TypeAlias = str | int | float | bool | Sequence["Value"] | dict[str, "Value"] | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: when, in which stage, of what kind, with which figures."""

    kind: str
    """``info``, ``warning``, ``progress``, or a stage's own word: ``epoch``, ``variant``."""
    time: float
    """Seconds since the Unix epoch."""
    stage: str
    fields: dict[str, Value]


class Listener(Protocol):
    """Whoever wants to see events."""

    def receive(self, event: Event) -> None:
        """Take one event; must return quickly."""
        ...


@dataclass
class JsonLines:
    """Appends each event to a file, one JSON object a line; progress is left out."""

    path: Path

    def receive(self, event: Event) -> None:
        """Append one event."""
        if event.kind == "progress":
            return
        line = {"time": round(event.time, 3), "stage": event.stage, "kind": event.kind}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | event.fields, default=str) + "\n")


@dataclass
class Progress:
    """A counted piece of work; advance it as it gets done."""

    log: EventLog
    label: str
    total: int
    unit: str
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count work done; `note` is a short figure to show beside the bar."""
        self.done += count
        elapsed_s = time.monotonic() - self.started
        self.log.emit(
            "progress", label=self.label, done=self.done, total=self.total, unit=self.unit,
            note=note, elapsed_s=elapsed_s,
        )  # fmt: skip


@dataclass(frozen=True)
class EventLog:
    """Where a stage says what happens; without listeners it is silent."""

    listeners: tuple[Listener, ...] = ()
    stage: str = ""

    def emit(self, kind: str, **fields: Value) -> None:
        """Tell every listener."""
        event = Event(kind=kind, time=time.time(), stage=self.stage, fields=fields)
        for listener in self.listeners:
            listener.receive(event)

    def info(self, message: str) -> None:
        """Say something a user wants to know."""
        self.emit("info", message=message)

    def warning(self, message: str) -> None:
        """Say something a user should act on; name the setting."""
        self.emit("warning", message=message)

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "step") -> Iterator[Progress]:
        """Open a progress bar for `total` pieces of work."""
        bar = Progress(log=self, label=label, total=total, unit=unit)
        bar.advance(0)
        yield bar
        self.emit("progress", label=label, done=bar.done, total=total, unit=unit, note="",
                  elapsed_s=time.monotonic() - bar.started, finished=True)  # fmt: skip
