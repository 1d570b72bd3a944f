"""Document: everything a report says about a run, read from its folder; saved as ``report.json``.

A run that failed gets a report like any other, so every file may be missing or damaged: what cannot
be read is listed under `problems` and the rest is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from pipeline.artifacts import Gate, Hop
from pipeline.report.blocks import SECTION_FILE, Number, Section, load_section

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """What happened to one stage."""

    name: str
    uses: str = ""
    status: str = "not reached"
    reason: str = ""
    started: Number = 0.0
    """Seconds since the Unix epoch; 0 if it never started."""
    seconds: Number = 0.0
    error: str = ""
    folder: str = ""
    """Folder inside the run, which pictures are relative to; empty if there is none."""
    section: Section | None = None


@dataclass(frozen=True, kw_only=True)
class StageGate(Gate):
    """A gate with the stage it belongs to."""

    stage: str = ""
    value: Number
    limit: Number


@dataclass(frozen=True, kw_only=True)
class StageHop(Hop):
    """A hop with the stage it belongs to."""

    stage: str = ""


@dataclass(frozen=True, kw_only=True)
class Document:
    """Everything a report says about a run."""

    name: str
    status: str = "unknown"
    verdict: str = "unknown"
    started: Number = 0.0
    finished: Number | None = None
    stages: tuple[StageEntry, ...] = ()
    gates: tuple[StageGate, ...] = ()
    hops: tuple[StageHop, ...] = ()
    commands: tuple[str, ...] = ()
    config: str = ""
    """The resolved configuration, as YAML."""
    environment: dict[str, JsonValue] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """What could not be read."""

    @property
    def failed_gates(self) -> tuple[StageGate, ...]:
        """The gates that did not hold."""
        return tuple(gate for gate in self.gates if not gate.passed)


_DOCUMENT = TypeAdapter(Document)
_STAGE = TypeAdapter(StageEntry)
_GATE = TypeAdapter(StageGate)
_HOP = TypeAdapter(StageHop)


def read_document(run_dir: Path) -> Document:
    """Read a run's folder, as far as it can be read."""
    problems: list[str] = []
    record = _json_object(run_dir / "run.json", problems)
    entries = _items(record, "stages", _STAGE, problems)
    stages = tuple(_with_section(entry, run_dir, problems) for entry in entries)
    commands = record.get("commands")
    return Document(
        name=str(record.get("name") or run_dir.resolve().name),
        status=str(record.get("status") or "unknown"),
        verdict=str(record.get("verdict") or "unknown"),
        started=_number(record.get("started")) or 0.0,
        finished=_number(record.get("finished")),
        stages=stages,
        gates=_items(record, "gates", _GATE, problems),
        hops=_items(record, "hops", _HOP, problems),
        commands=tuple(map(str, commands)) if isinstance(commands, list) else (),
        config=_text(run_dir / "config.yaml", problems),
        environment=_json_object(run_dir / "environment.json", problems),
        problems=tuple(problems),
    )


def dump_document(document: Document) -> bytes:
    """Return the document as JSON."""
    return _DOCUMENT.dump_json(document, indent=1) + b"\n"


def load_document(data: bytes) -> Document:
    """Return the document that `dump_document` wrote.

    Raises:
        ValueError: it is no such JSON.
    """
    return _DOCUMENT.validate_json(data)


def _with_section(entry: StageEntry, run_dir: Path, problems: list[str]) -> StageEntry:
    """Add what the stage left; one that failed may have left something in its partial folder."""
    for folder in (entry.name, f"{entry.name}.partial"):
        if not _is_plain(folder) or not (run_dir / folder / SECTION_FILE).is_file():
            continue
        try:
            section = load_section(run_dir / folder)
        except (OSError, ValueError) as error:
            problems.append(f"{folder}/{SECTION_FILE}: {_first_line(error)}")
            continue
        return _STAGE.validate_python({**entry.__dict__, "folder": folder, "section": section})
    return entry


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _items(
    record: dict[str, JsonValue], key: str, adapter: TypeAdapter[T], problems: list[str]
) -> tuple[T, ...]:
    """Return the items of a list that can be read."""
    listed = record.get(key)
    found = []
    for index, item in enumerate(listed if isinstance(listed, Iterable) else ()):
        try:
            found.append(adapter.validate_python(item))
        except ValidationError as error:
            problems.append(f"run.json: {key}[{index}]: {_first_line(error)}")
    return tuple(found)


def _json_object(path: Path, problems: list[str]) -> dict[str, JsonValue]:
    text = _text(path, problems)
    try:
        content: JsonValue = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {_first_line(error)}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path.name}: holds no JSON object.")
        return {}
    return content


def _text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror}.")
        return ""


def _number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).partition("\n")[0]
