"""Comparison: how two runs differ, in settings, accuracy, gates, figures and time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import JsonValue
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.document import Document, read_document
from pipeline.report.figures import MISSING, duration, figure, signed

Leaf = str | int | float | bool | None
_APART = {"gates", "hops", "predictions"}
"""Parts of an artifact that are compared on their own, or are no figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that is not the same in both runs."""

    name: str
    """A dotted path, or a name after its stage: ``stages.train.epochs``, ``export: max drop``."""
    a: Leaf
    """None where the first run does not have it."""
    b: Leaf

    @property
    def change(self) -> float | None:
        """The second minus the first, where both are numbers."""
        if isinstance(self.a, (str, bool)) or isinstance(self.b, (str, bool)):
            return None
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How two runs differ; settings and figures that agree are left out."""

    name_a: str
    name_b: str
    config: tuple[Difference, ...]
    hops: tuple[Difference, ...]
    """Top-1 in percent, hop by hop; equal ones too."""
    gates: tuple[Difference, ...]
    """Measured values, gate by gate; equal ones too."""
    figures: tuple[Difference, ...]
    """Numbers in the stages' artifacts."""
    seconds: tuple[Difference, ...]
    """Seconds spent in each stage; equal ones too."""

    def render_text(self, width: int = 110) -> str:
        """Return the comparison as tables of plain text."""
        parts = (
            ("Settings", self.config, ""),
            ("Accuracy (top-1, %)", self.hops, "points"),
            ("Gates", self.gates, ""),
            ("Figures", self.figures, ""),
            ("Time", self.seconds, "s"),
        )
        written = io.StringIO()
        console = Console(file=written, width=width, color_system=None, highlight=False)
        for title, differences, unit in parts:
            if differences:
                console.print(_table(title, differences, (self.name_a, self.name_b), unit))
        if not any(differences for _, differences, _ in parts):
            console.print("The runs do not differ.")
        return written.getvalue().rstrip()


def compare_runs(run_a: Path, run_b: Path) -> Comparison:
    """Read two run folders and return how they differ; what a run does not have is None."""
    a, b = read_document(run_a), read_document(run_b)
    return Comparison(
        name_a=a.name if a.name != b.name else str(run_a),
        name_b=b.name if a.name != b.name else str(run_b),
        config=_differences(_settings(a), _settings(b), only_changed=True),
        hops=_differences(_hops(a), _hops(b)),
        gates=_differences(_gates(a), _gates(b)),
        figures=_differences(_figures(a, run_a), _figures(b, run_b), only_changed=True),
        seconds=_differences(_seconds(a), _seconds(b)),
    )


def _differences(
    a: Mapping[str, Leaf], b: Mapping[str, Leaf], *, only_changed: bool = False
) -> tuple[Difference, ...]:
    names = [*a, *(name for name in b if name not in a)]
    pairs = (Difference(name=name, a=a.get(name), b=b.get(name)) for name in names)
    return tuple(d for d in pairs if not only_changed or not _same(d.a, d.b))


def _same(a: Leaf, b: Leaf) -> bool:
    """Tell whether two settings agree; `true` is not the number 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _settings(document: Document) -> dict[str, Leaf]:
    try:
        # YAML knows dates; through JSON they become text.
        content: JsonValue = json.loads(json.dumps(yaml.safe_load(document.config), default=str))
    except (yaml.YAMLError, TypeError):
        return {}
    return dict(_leaves(content))


def _hops(document: Document) -> dict[str, Leaf]:
    return {f"{hop.stage}: {hop.name}": round(100 * hop.top1, 4) for hop in document.hops}


def _gates(document: Document) -> dict[str, Leaf]:
    return {f"{gate.stage}: {gate.name}": gate.value for gate in document.gates}


def _seconds(document: Document) -> dict[str, Leaf]:
    return {stage.name: stage.seconds for stage in document.stages if stage.status == "ran"}


def _figures(document: Document, run_dir: Path) -> dict[str, Leaf]:
    """Return every number of every artifact by its path."""
    found: dict[str, Leaf] = {}
    for stage in document.stages:
        try:
            record = json.loads((run_dir / stage.name / "artifact.json").read_bytes())
        except (OSError, ValueError):
            continue
        content = record.get("artifact") if isinstance(record, dict) else None
        if isinstance(content, dict):
            kept = {key: value for key, value in content.items() if key not in _APART}
            found |= {
                f"{stage.name}.{path}": value
                for path, value in _leaves(kept)
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            }
    return found


def _leaves(node: JsonValue, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Yield the leaves of nested data by dotted path; named items of a list by their name."""
    match node:
        case dict():
            for key, value in node.items():
                yield from _leaves(value, f"{path}.{key}" if path else str(key))
        case list():
            for index, value in enumerate(node):
                name, inner = _named(value, index)
                yield from _leaves(inner, f"{path}.{name}")
        case _:
            yield path, node


def _named(item: JsonValue, index: int) -> tuple[str, JsonValue]:
    if isinstance(item, dict):
        name = item.get("name")
        if isinstance(name, str):
            return name, {key: value for key, value in item.items() if key != "name"}
        if len(item) == 1:  # a stage in the configuration: ``- train: {...}``
            return next(iter(item.items()))
    return str(index), item


def _table(
    title: str, differences: tuple[Difference, ...], names: tuple[str, str], unit: str
) -> Table:
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in (*names, f"change ({unit})" if unit else "change"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for difference in differences:
        change = difference.change
        shown = "" if change is None else signed(change) if unit else _shown(change)
        cells = (difference.name, _shown(difference.a, unit), _shown(difference.b, unit), shown)
        table.add_row(*map(Text, cells))  # Text: what stands in a run is no markup
    return table


def _shown(value: Leaf, unit: str = "") -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    return duration(value) if unit == "s" else figure(value)
