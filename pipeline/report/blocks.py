"""Blocks: the vocabulary in which a stage describes its part of the report.

A stage composes blocks and leaves them as ``section.json`` in its folder; the renderer knows blocks
and no stage. So a stage from elsewhere gets its own chapter with charts without a line of HTML.

    ctx.write_section(Section(title="Training", blocks=(
        LineChart(title="Loss", x_label="step", y_label="loss",
                  series=(Series(name="train", x=(1, 2), y=(0.9, 0.4)),)),
    )))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, TypeAdapter

from pipeline.files import write_atomic

Cell = str | int | float | bool | None


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


# A loss may be NaN, for which JSON has no number: it is written as text, and read back as a number.
Number = Annotated[float, PlainSerializer(_json_number, when_used="json")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A paragraph; `level` colours it."""

    text: str
    level: Literal["info", "good", "warning", "bad"] = "info"
    block: Literal["note"] = "note"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Names and values: few figures that matter."""

    title: str
    items: tuple[tuple[str, Cell], ...]
    block: Literal["facts"] = "facts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under column heads; numbers align right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    highlight: tuple[int, ...] = ()
    """Indices of rows to set off, for instance the chosen variant."""
    caption: str = ""
    block: Literal["table"] = "table"


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line or set of points; a value that is not finite leaves a gap."""

    name: str
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    labels: tuple[str, ...] = ()
    """One per point, shown beside it (scatter) or on hover."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineChart:
    """Curves over one axis."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_y: bool = False
    caption: str = ""
    block: Literal["line"] = "line"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterChart:
    """Labelled points in a plane, for instance accuracy against latency."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    caption: str = ""
    block: Literal["scatter"] = "scatter"


@dataclass(frozen=True, kw_only=True, slots=True)
class BarChart:
    """One bar a name."""

    title: str
    names: tuple[str, ...]
    values: tuple[Number, ...]
    unit: str = ""
    caption: str = ""
    block: Literal["bar"] = "bar"


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """A heat map with row and column names, for instance a confusion matrix."""

    title: str
    row_label: str
    column_label: str
    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    """values[row][column]."""
    caption: str = ""
    block: Literal["matrix"] = "matrix"


@dataclass(frozen=True, kw_only=True, slots=True)
class GanttSpan:
    """A stretch of time in which one row was at work."""

    row: int
    kind: int
    """Which of the chart's kinds of work."""
    start: Number
    end: Number
    label: str = ""
    """Shown inside where it fits, for instance the number of a micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gantt:
    """Who worked on what, and when; each kind of work has its own height in a row."""

    title: str
    x_label: str
    """What is measured along the axis, with its unit."""
    rows: tuple[str, ...]
    kinds: tuple[str, ...]
    """At most three."""
    spans: tuple[GanttSpan, ...]
    caption: str = ""
    block: Literal["gantt"] = "gantt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image with its caption."""

    path: str
    """PNG or JPEG, relative to the stage's folder."""
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """Pictures side by side."""

    title: str
    pictures: tuple[Picture, ...]
    caption: str = ""
    block: Literal["gallery"] = "gallery"


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Text in a fixed-width face that can be copied: commands, configuration, manifests."""

    title: str
    text: str
    language: str = ""
    folded: bool = False
    block: Literal["code"] = "code"


Block = Note | Facts | Table | LineChart | ScatterChart | BarChart | Matrix | Gantt | Gallery | Code


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A stage's part of the report."""

    title: str
    blocks: tuple[Annotated[Block, Field(discriminator="block")], ...]
    summary: str = ""
    """One sentence that stands under the title."""


_SECTION = TypeAdapter(Section)
SECTION_FILE = "section.json"


def save_section(section: Section, folder: Path) -> Path:
    """Write a section as JSON into a stage's folder."""
    path = folder / SECTION_FILE
    write_atomic(path, _SECTION.dump_json(section, indent=1))
    return path


def load_section(folder: Path) -> Section | None:
    """Read the section a stage left in its folder, or None if it left none.

    Raises:
        ValueError: the file is there and is not a section.
    """
    path = folder / SECTION_FILE
    return _SECTION.validate_json(path.read_bytes()) if path.exists() else None
