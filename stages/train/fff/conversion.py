"""Conversion: how well fast layers took the place of dense ones, kept in the stage's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.files import write_atomic
from pipeline.report.blocks import Table
from stages.train.fff.distill import Distilled

_FILE = "conversion.json"
_TAKEN_BACK = "; that was worse, so it was taken back"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What `convert.convert` achieved."""

    r2: dict[str, float]
    """Of each fast layer: the share of the variance of the dense layer's outputs that it explains,
    on a batch not learned from; at most 1."""
    end_to_end: Distilled | None
    """What learning end to end brought after that; None if it was turned off, or failed."""

    def save(self, folder: Path) -> None:
        """Keep the figures for the report."""
        write_atomic(folder / _FILE, json.dumps(asdict(self)))

    def lines(self) -> list[str]:
        """Return the figures in words."""
        lines = [
            f"{name} explains {r2:.1%} of what the dense layer gives out"
            for name, r2 in self.r2.items()
        ]
        if self.end_to_end is not None:
            before, after = self.end_to_end.before, self.end_to_end.after
            lines.append(
                f"end to end, {after.same_top1:.1%} of {self.end_to_end.samples:,} samples get the "
                f"trained network's first answer ({before.same_top1:.1%} before), and the KL "
                f"divergence from its answers is {after.kl:.3g} ({before.kl:.3g} before)"
                f"{_TAKEN_BACK if self.end_to_end.taken_back else ''}"
            )
        return lines

    def table(self) -> Table:
        """Return the figures for the report."""
        rows = [(name, "R2", f"{r2:.1%}", "") for name, r2 in self.r2.items()]
        caption = (
            "R2: share of the variance of the dense layer's outputs that the fast one explained, "
            "on a batch that it had not learned from."
        )
        if self.end_to_end is not None:
            before, after = self.end_to_end.before, self.end_to_end.after
            same = f"{before.same_top1:.1%}", f"{after.same_top1:.1%}"
            rows += [
                ("whole network", "same top-1", *same),
                ("whole network", "KL divergence", f"{before.kl:.3g}", f"{after.kl:.3g}"),
            ]
            caption += (
                " Of the whole network: against the dense one, over "
                f"{self.end_to_end.samples:,} samples of the eval split; the divergence in nats"
                f"{_TAKEN_BACK if self.end_to_end.taken_back else ''}."
            )
        return Table(
            title="Conversion to fast feedforward layers",
            columns=("of", "figure", "layer by layer", "end to end"),
            rows=tuple(rows),
            caption=caption,
        )


def load_conversion(folder: Path) -> Conversion | None:
    """Return the conversion that was made in a stage's folder, if one was."""
    path = folder / _FILE
    return TypeAdapter(Conversion).validate_json(path.read_bytes()) if path.is_file() else None
