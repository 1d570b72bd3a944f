"""Quarantine: damaged samples are named, and left out or cause for a stop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.context import Context
from pipeline.errors import DataError
from pipeline.files import write_atomic
from stages.augment.sources import Finding, Source

DAMAGED_FILE = "damaged.json"
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Damaged:
    """A sample that cannot be used, and why."""

    name: str
    problem: str


def set_aside(
    source: Source, findings: Sequence[Finding], on_error: Literal["skip", "fail"], ctx: Context
) -> tuple[list[int], tuple[Damaged, ...]]:
    """Return the indices of usable samples, and the damaged ones, as in ``damaged.json``.

    Raises:
        DataError: samples are damaged and `on_error` is ``fail``, or a class has none left.
    """
    usable = [index for index, finding in enumerate(findings) if not finding.problem]
    damaged = tuple(
        Damaged(item.name, finding.problem)
        for item, finding in zip(source.items, findings, strict=True)
        if finding.problem
    )
    listed = [{"name": entry.name, "problem": entry.problem} for entry in damaged]
    write_atomic(ctx.dir / DAMAGED_FILE, json.dumps(listed, indent=1) + "\n")
    if damaged:
        told = "; ".join(f"{entry.name} {entry.problem}" for entry in damaged[:_NAMED])
        more = f"; and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
        if on_error == "fail":
            raise DataError(
                f"{source.name}: {len(damaged)} of {len(source.items)} {source.noun}s cannot be "
                f"used: {told}{more}. Mend or remove them, or set on_error: skip to leave them out."
            )
        ctx.events.warning(
            f"{source.name}: {len(damaged)} of {len(source.items)} {source.noun}s are left out "
            f"(on_error: skip): {told}{more}. All are named in {DAMAGED_FILE}."
        )
    _check_classes(source, usable)
    return usable, damaged


def _check_classes(source: Source, usable: Sequence[int]) -> None:
    if len(source.classes) < 2:
        raise DataError(
            f"{source.name}: {len(source.classes)} class ({', '.join(source.classes)}); a "
            f"classifier needs at least 2. {source.labelling}"
        )
    trained = Counter(
        source.items[index].label for index in usable if source.items[index].part != "eval"
    )
    empty = [name for label, name in enumerate(source.classes) if not trained[label]]
    if empty:
        raise DataError(
            f"{source.name}: no usable training {source.noun} in {len(empty)} class(es): "
            f"{', '.join(empty[:_NAMED])}. Add {source.noun}s, or remove the empty class."
        )
    if any(item.part == "eval" for item in source.items) and not any(
        source.items[index].part == "eval" for index in usable
    ):
        raise DataError(
            f"{source.name}: no usable {source.noun} in the eval part. Add {source.noun}s to it."
        )
