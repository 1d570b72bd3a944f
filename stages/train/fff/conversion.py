"""Conversion: how well fast layers took the place of dense ones, kept in the stage's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.files import write_atomic
from pipeline.report.blocks import Table

_FILE = "conversion.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What `convert.convert` achieved."""

    r2: dict[str, float]
    """Of each fast layer: the share of the variance of the dense layer's outputs that it explains,
    on a batch not learned from; at most 1."""

    def save(self, folder: Path) -> None:
        """Keep the figures for the report."""
        write_atomic(folder / _FILE, json.dumps(asdict(self)))

    def table(self) -> Table:
        """Return the figures for the report."""
        return Table(
            title="Conversion to fast feedforward layers",
            columns=("layer", "R2"),
            rows=tuple((name, f"{r2:.1%}") for name, r2 in self.r2.items()),
            caption="R2: share of the variance of the dense layer's outputs that the fast one "
            "explained, on a batch that it had not learned from.",
        )


def load_conversion(folder: Path) -> Conversion | None:
    """Return the conversion that was made in a stage's folder, if one was."""
    path = folder / _FILE
    return Conversion(**json.loads(path.read_text())) if path.is_file() else None
