"""TextSource: labelled texts in memory, from the rows of one table or of two."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.context import Context
from pipeline.errors import DataError
from pipeline.files import write_atomic
from stages.augment.sources import Finding, Item, Part
from stages.augment.text.rows import Row, read_rows

_POLL_EVERY = 16384
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class TextSource:
    """Texts of one part each, or of two."""

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    texts: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...]
    """One a row; empty where nothing is wrong with it."""
    notes: tuple[str, ...] = ()
    reader: Literal["text"] = "text"
    noun: str = "text"
    labelling: str = "Name the column of the class in dataset: {text: ..., label: ...}."

    def inspect(self, ctx: Context) -> list[Finding]:
        """Hash every text as a reader would see it: case and space make no other text."""
        findings: list[Finding] = []
        for index, (texts, problem) in enumerate(zip(self.texts, self.problems, strict=True)):
            if index % _POLL_EVERY == 0:
                ctx.stop.check()
            seen = "\n".join(" ".join(text.lower().split()) for text in texts)
            findings.append(
                Finding(
                    sha256=hashlib.sha256(seen.encode(errors="surrogatepass")).hexdigest(),
                    words=sum(len(text.split()) for text in texts),
                    problem=problem,
                )
            )
        return findings

    def write_manifest(self, split: str, chosen: Sequence[int], folder: Path) -> Path:
        """Write JSON Lines of the text's parts and the label."""
        lines = (
            json.dumps({"text": self.texts[i], "label": self.items[i].label}, ensure_ascii=False)
            for i in chosen
        )
        path = folder / f"{split}.jsonl"
        write_atomic(path, "".join(f"{line}\n" for line in lines))
        return path


def open_text(
    train: Path,
    held_out: Path | None,
    columns: Sequence[str],
    label: str,
    *,
    name: str = "",
    sha256: str = "",
) -> TextSource:
    """Read a table of labelled texts, and one for eval where there is one.

    Args:
        train: the table, of training or of everything.
        held_out: a table for eval alone.
        columns: of the text, or of its two parts.
        label: the column of the class.
        name: of the data set; empty: the file's.
        sha256: what the training table's content must hash to; empty: anything.

    Raises:
        DataError: a table cannot be read, lacks a column or a row, or has another hash.
    """
    if sha256:
        _check_hash(train, sha256)
    tables: dict[Part, Path] = {"any" if held_out is None else "train": train}
    if held_out is not None:
        tables["eval"] = held_out
    rows: list[tuple[Part, Row]] = []
    for part, path in tables.items():
        found = [(part, row) for row in read_rows(path, columns, label)]
        if not found:
            raise DataError(f"{path}: has no row. Check the file.")
        rows += found
    classes = _classes(row.label for _, row in rows if not row.problem)
    numbers = {each: number for number, each in enumerate(classes)}
    return TextSource(
        name=name or train.stem,
        classes=classes,
        items=tuple(Item(row.name, numbers.get(row.label, 0), part) for part, row in rows),
        texts=tuple(row.texts for _, row in rows),
        problems=tuple(row.problem for _, row in rows),
    )


def _classes(labels: Iterable[str]) -> tuple[str, ...]:
    distinct = sorted(set(labels))
    if all(_WHOLE_NUMBER.fullmatch(each) for each in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(distinct)


def _check_hash(path: Path, wanted: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if not found.startswith(wanted.lower()):
        raise DataError(
            f"{path}: its SHA-256 is {found}, and dataset.sha256 says {wanted}. The file has "
            "changed: fetch the right one, or write the new hash if the change is meant."
        )
