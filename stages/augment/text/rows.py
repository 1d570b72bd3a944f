"""Rows: labelled texts from a table, one sample a row: CSV, TSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.backend import is_installed
from pipeline.errors import DataError, nearest

if TYPE_CHECKING:
    from pyarrow import RecordBatch

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
    ending = path.suffix.lower()
    if ending not in readers:
        raise DataError(
            f"{path}: ends in '{path.suffix}'. Allowed: {', '.join(ENDINGS)}."
            f"{nearest(ending, ENDINGS)}"
        )
    wanted = (*columns, label)
    try:
        for name, fields in readers[ending](path, wanted):
            yield _row(f"{path.name}:{name}", fields, columns, label)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


Fields = Mapping[str, object] | str
"""The values of a row by column, or what is wrong with the whole row."""


def _row(name: str, fields: Fields, columns: Sequence[str], label: str) -> Row:
    if isinstance(fields, str):
        return Row(name, ("",) * len(columns), "", fields)
    wanted = (*columns, label)
    values = [fields.get(column) for column in wanted]
    found = [_text(value) for value in values]
    problem = ""
    for column, value, text in zip(wanted, values, found, strict=True):
        if isinstance(value, list | tuple | dict):
            problem = f"has a {type(value).__name__} in column '{column}', and no text"
        elif _is_no_text(text):
            problem = "is not UTF-8"
        elif not text.strip():
            problem = f"has no {'label' if column == label else 'text'} in column '{column}'"
        if problem:
            break
    return Row(name, tuple(found[:-1]), found[-1].strip(), problem)


def _text(value: object) -> str:
    if value is None or value != value:  # NaN is how some tables spell nothing
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # Parquet and pandas turn labels with gaps into floats
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    return str(value)


def _is_no_text(text: str) -> bool:
    """Tell whether bytes that are not UTF-8 were carried along as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read_csv(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    csv.field_size_limit(_MAX_FIELD)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        width = 0
        while True:
            line = reader.line_num + 1  # a row may have several
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                if not width or "expected after" not in str(error):
                    raise _broken(path, line, error) from error
                yield str(line), f"has a quote within quotes that is not doubled: {error}"
                continue
            if not width:
                _check_columns(path, wanted, cells)
                header, width = cells, len(cells)
            elif cells and len(cells) != width:
                yield str(line), f"has {len(cells)} fields, and the header {width}"
            elif cells:
                yield str(line), dict(zip(header, cells, strict=True))
    if not width:
        _check_columns(path, wanted, [])


def _broken(path: Path, line: int, error: csv.Error) -> DataError:
    """Say where quotes that nothing closes begin; what follows them cannot be told apart."""
    return DataError(
        f"{path}, line {line}: {error}. Mend the quotes of that row; a text with a comma, a line "
        'break or a quote stands in "..." with quotes doubled.'
    )


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
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:  # of another age than numpy
        raise DataError(
            f"{path}: reading Parquet needs pyarrow, which cannot be imported: {error}. Install "
            "a pyarrow that fits, for numpy 1.x pip install 'pyarrow<26', or write a .jsonl."
        ) from error
    try:
        file = parquet.ParquetFile(path)
        _check_columns(path, wanted, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(wanted))):
            for fields in _as_bytes(batch).to_pylist():
                number += 1
                yield str(number), fields
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: is no whole Parquet file: {error}. Write it again.") from error


def _as_bytes(batch: RecordBatch) -> RecordBatch:
    """Let strings be bytes: Parquet does not promise that they are UTF-8."""
    import pyarrow

    strings = (pyarrow.string(), pyarrow.large_string())
    columns = [
        column.cast(pyarrow.large_binary()) if column.type in strings else column
        for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _check_columns(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    if any(_is_no_text(column) or "\0" in column for column in found):
        raise DataError(f"{path}: its first line is not UTF-8. Save the table as UTF-8.")
    for column in wanted:
        if column not in found:
            raise DataError(
                f"{path}: there is no column '{column}'. It has: {', '.join(found) or 'none'}."
                f"{nearest(column, found)} Name the columns in dataset: {{text: ..., column: ..., "
                "label: ...}."
            )
