"""Rows: labelled texts from a table, one sample a row: CSV, TSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.backend import is_installed
from pipeline.errors import DataError, nearest

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
_MAX_FIELD = 16 << 20
_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    name: str
    """The file and the line, or the number of the row."""
    texts: tuple[str, ...]
    label: str
    problem: str = ""
    """Why it cannot be used; empty when it can."""


def read_rows(path: Path, columns: Sequence[str], label: str) -> Iterator[Row]:
    """Yield the rows of a table; one that is damaged says so, and the rest goes on.

    Args:
        path: a file that ends in one of `ENDINGS`.
        columns: of the text, or of its two parts.
        label: the column of the class.

    Raises:
        DataError: the file cannot be read at all, or lacks a column.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DataError(
            f"{path}: ends in '{path.suffix}'. Allowed: {', '.join(ENDINGS)}."
            f"{nearest(path.suffix, ENDINGS)}"
        )
    wanted = (*columns, label)
    try:
        for name, fields in readers[path.suffix](path, wanted):
            yield _row(f"{path.name}:{name}", fields, columns, label)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


Fields = Mapping[str, object] | str
"""The values of a row by column, or what is wrong with the whole row."""


def _row(name: str, fields: Fields, columns: Sequence[str], label: str) -> Row:
    if isinstance(fields, str):
        return Row(name, ("",), "", fields)
    texts = tuple(_text(fields.get(column)) for column in columns)
    found = _text(fields.get(label))
    empty = [column for column, text in zip(columns, texts, strict=True) if not text.strip()]
    problem = ""
    if any(_is_no_text(text) for text in (*texts, found)):
        problem = "is not UTF-8"
    elif empty:
        problem = f"has no text in column '{empty[0]}'"
    elif not found.strip():
        problem = f"has no label in column '{label}'"
    return Row(name, texts, found.strip(), problem)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # Parquet and pandas turn labels with gaps into floats
    return str(value)


def _is_no_text(text: str) -> bool:
    """Tell whether bytes that are not UTF-8 were carried along as lone surrogates."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _read_csv(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    csv.field_size_limit(_MAX_FIELD)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            header = next(reader, [])
            _check_columns(path, wanted, header)
            for cells in reader:
                if not cells:
                    continue
                line = str(reader.line_num)
                if len(cells) != len(header):
                    yield line, f"has {len(cells)} fields, and the header {len(header)}"
                else:
                    yield line, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: {error}. Mend the quotes of that row; a text "
                'with a comma, a line break or a quote stands in "..." with quotes doubled.'
            ) from error


def _read_jsonl(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    seen: set[str] = set()
    complete = False
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield str(number), f"is no JSON: {error}"
                continue
            if not isinstance(fields, dict):
                yield str(number), "is JSON and no object of columns"
                continue
            if not complete:
                seen |= fields.keys()
                complete = seen.issuperset(wanted)
            yield str(number), fields
    if seen and not complete:
        _check_columns(path, wanted, sorted(seen))


def _parquet(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    if not is_installed("pyarrow"):
        raise DataError(
            f"{path}: reading Parquet needs pyarrow, which is not installed. "
            "Run: pip install 'dlpipe[text]'"
        )
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        _check_columns(path, wanted, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(wanted))):
            for fields in batch.to_pylist():
                number += 1
                yield str(number), fields
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: is no whole Parquet file: {error}. Write it again.") from error


def _check_columns(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    for column in wanted:
        if column not in found:
            raise DataError(
                f"{path}: there is no column '{column}'. It has: {', '.join(found) or 'none'}."
                f"{nearest(column, found)} Name the columns in dataset: {{text: ..., column: ..., "
                "label: ...}}."
            )
