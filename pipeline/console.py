"""Console: shows events on a terminal with bars, and as sparse lines where output is piped."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.events import Event, Listener, Value

_SPARSE_S = 10.0
_REFRESH_HZ = 8
_WORTH_SHOWING = {
    "epoch": ("epoch", "loss", "top1", "ema_top1", "lr", "images_per_s"),
    "variant": ("name", "top1", "drop_points", "p50_ms", "images_per_s", "note"),
    "load": ("concurrency", "throughput", "p50_ms", "p99_ms", "errors"),
}


def open_console(stream: TextIO | None = None) -> Listener:
    """Return bars for a terminal, sparse lines for anything else."""
    stream = stream or sys.stderr
    return TerminalConsole(Console(file=stream)) if stream.isatty() else LineConsole(stream)


def describe(event: Event) -> str:
    """Return one line for an event, or nothing for events that only machines want."""
    fields = event.fields
    match event.kind:
        case "info":
            return str(fields["message"])
        case "warning":
            return f"warning: {fields['message']}"
        case "stage" if fields["action"] == "skip":
            return "not asked for"
        case "stage":
            words = {"run": "runs", "resume": "resumes", "cached": "cached", "given": "as it is"}
            return f"{words[str(fields['action'])]}: {fields['reason']}"
        case "stage end" if fields["action"] in {"run", "resume"}:
            return f"done in {_number(fields['seconds']):.1f} s"
        case "gate":
            return f"{'PASS' if fields['passed'] else 'FAIL'} {fields['name']}: {fields['message']}"
        case "epoch" | "variant" | "load":
            shown = {key: _shown(fields.get(key)) for key in _WORTH_SHOWING[event.kind]}
            return " · ".join(v if k == "name" else f"{k} {v}" for k, v in shown.items() if v)
        case _:
            return ""


@dataclass
class LineConsole:
    """Plain lines, with progress at most every ten seconds: for logs and pipes."""

    stream: TextIO
    last: dict[str, float] = field(default_factory=dict)
    muted: bool = False
    """Nobody reads any more: the work goes on, as `events.jsonl` does."""

    def receive(self, event: Event) -> None:
        """Write one event, if it is worth a line."""
        line = self._progress(event) if event.kind == "progress" else describe(event)
        if line and not self.muted:
            try:
                self.stream.write(f"{_prefix(event)}{line}\n")
                self.stream.flush()
            except OSError:
                self.muted = True

    def _progress(self, event: Event) -> str:
        fields, now = event.fields, time.monotonic()
        label = str(fields["label"])
        started = self.last.setdefault(label, now)
        if fields.get("finished"):
            del self.last[label]
            return ""
        if now - started < _SPARSE_S:
            return ""
        self.last[label] = now
        done, total = _number(fields["done"]), _number(fields["total"])
        left = _number(fields["elapsed_s"]) / done * (total - done) if done else 0.0
        note = f" · {fields['note']}" if fields["note"] else ""
        return f"{label} {done:.0f}/{total:.0f} {fields['unit']}, {left:.0f} s left{note}"


@dataclass
class TerminalConsole:
    """Bars that vanish when their work is done, and coloured lines above them."""

    console: Console
    progress: Progress | None = None
    tasks: dict[str, TaskID] = field(default_factory=dict)

    def receive(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "progress":
            self._bar(event)
            return
        line = describe(event)
        if line:
            style = _style(event)
            text = f"[bold]{escape(_prefix(event))}[/bold]{escape(line)}"
            self.console.print(f"[{style}]{text}[/{style}]" if style else text, highlight=False)

    def _bar(self, event: Event) -> None:
        fields = event.fields
        label = str(fields["label"])
        if fields.get("finished"):
            self._close(label)
            return
        progress = self._open()
        if label not in self.tasks:
            self.tasks[label] = progress.add_task(label, total=_number(fields["total"]), note="")
        progress.update(
            self.tasks[label], completed=_number(fields["done"]), note=escape(str(fields["note"]))
        )

    def _open(self) -> Progress:
        if self.progress is None:
            self.progress = Progress(
                TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=self.console, transient=True, refresh_per_second=_REFRESH_HZ,
            )  # fmt: skip
            self.progress.start()
        return self.progress

    def _close(self, label: str) -> None:
        if self.progress is not None and label in self.tasks:
            self.progress.remove_task(self.tasks.pop(label))
            if not self.tasks:
                self.progress.stop()
                self.progress = None

    def close(self) -> None:
        """Take the bars away, also after an error."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
            self.tasks.clear()


def _prefix(event: Event) -> str:
    return f"{event.stage}: " if event.stage else ""


def _style(event: Event) -> str:
    if event.kind == "warning":
        return "yellow"
    if event.kind == "gate":
        return "green" if event.fields["passed"] else "red"
    return "dim" if event.kind in {"info", "epoch"} else ""


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, str | int) else ""
