"""One table, the same rows, however it is stored; what is wrong with a row is said of that row."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from stages.augment.text.rows import ENDINGS, Row, read_rows

WriteTable = Callable[[Path, Sequence[Mapping[str, object]]], Path]
SameFolder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, *columns: str, label: str = "label") -> list[Row]:
    return list(read_rows(path, columns or ("text",), label))


def table(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def problems(rows: Sequence[Row]) -> dict[str, str]:
    return {row.name: row.problem for row in rows if row.problem}


words = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(str.strip)
"""A lone carriage return is a line break to any reader of CSV, and comes back as one."""


@pytest.mark.parametrize("ending", ENDINGS)
@SameFolder
@given(st.lists(st.tuples(words, words), min_size=1, max_size=8))
def test_the_same_rows_come_out_of_every_format(
    tmp_path: Path, write_table: WriteTable, ending: str, given_rows: list[tuple[str, str]]
) -> None:
    rows = [{"text": text, "label": label} for text, label in given_rows]
    expected = [((text,), label.strip(), "") for text, label in given_rows]
    found = read(write_table(tmp_path / f"t{ending}", rows))
    assert [(row.texts, row.label, row.problem) for row in found] == expected


@pytest.mark.parametrize("ending", ENDINGS)
def test_two_columns_are_a_text_of_two_parts(
    tmp_path: Path, write_table: WriteTable, ending: str
) -> None:
    rows = [{"more": 7, "question": "who?", "context": 'a, "b"\nc', "stars": 2}]
    (row,) = read(write_table(tmp_path / f"t{ending}", rows), "question", "context", label="stars")
    assert (row.texts, row.label, row.problem) == (("who?", 'a, "b"\nc'), "2", "")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, name: str) -> None:
    content = "text,label\na,b\n" if name == "t.csv" else '{"text": "a", "label": "b"}\n'
    assert read(table(tmp_path, b"\xef\xbb\xbf" + content.encode(), name))[0].texts == ("a",)


def test_an_ending_in_capitals_is_the_same_format(tmp_path: Path) -> None:
    assert read(table(tmp_path, "text\tlabel\na,b\tc\n", "T.TSV"))[0].texts == ("a,b",)


def test_damaged_rows_of_a_csv_are_named_by_their_first_line_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    path = table(
        tmp_path,
        b"text,label\n"
        b'"one,\nline ""and"" more",x\n'  # 2 and 3
        b"too few\n"
        b"too,many,fields\n"
        b"\n"
        b" ,x\n"
        b"no label, \n"
        b"caf\xe9,x\n"
        b'"a "quote" within",x\n'
        b'"two\nlines",\n'  # 10 and 11
        b"last,y\n",
    )
    rows = read(path)
    assert [row.texts[0] for row in rows if not row.problem] == ['one,\nline "and" more', "last"]
    assert {name: said[:40] for name, said in problems(rows).items()} == {
        "t.csv:4": "has 1 fields, and the header 2",
        "t.csv:5": "has 3 fields, and the header 2",
        "t.csv:7": "has no text in column 'text'",
        "t.csv:8": "has no label in column 'label'",
        "t.csv:9": "is not UTF-8",
        "t.csv:10": "has a quote within quotes that is not do",
        "t.csv:11": "has no label in column 'label'",
    }
    assert rows[-1].name == "t.csv:13"


def test_a_quote_that_nothing_closes_is_an_error_and_swallows_nothing_in_silence(
    tmp_path: Path,
) -> None:
    path = table(tmp_path, 'text,label\na,x\n"b,x\nc,y\nd,x\n')
    with pytest.raises(DataError, match=r"t\.csv, line 3: .*Mend the quotes of that row"):
        read(path)


def test_a_huge_field_is_read_and_one_without_an_end_is_refused(tmp_path: Path) -> None:
    (row,) = read(table(tmp_path, f"text,label\n{'a' * 300_000},x\n"))
    assert (len(row.texts[0]), row.problem) == (300_000, "")
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        read(table(tmp_path, "text,label\n" + "a" * (17 << 20)))


def test_zero_bytes_stay_in_the_text(tmp_path: Path) -> None:
    (row,) = read(table(tmp_path, "text,label\na\0b,x\n"))
    assert (row.texts, row.problem) == (("a\0b",), "")


def test_damaged_lines_of_jsonl_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        b'{"text": "a", "label": 3}', b"{", b"", b"[1]", b'{"label": "x"}', b'{"text": "a"}',
        b'{"text": "caf\xe9", "label": "x"}', b'{"text": "\\ud83d", "label": "x"}',
        b'{"text": ["a"], "label": "x"}', b'{"text": "a", "label": NaN}', b"[" * 100_000,
        b'{"text": "a", "label": true}',
    ]  # fmt: skip
    rows = read(table(tmp_path, b"\n".join(lines), "t.jsonl"))
    assert [row.label for row in rows if not row.problem] == ["3", "True"]
    told = problems(rows)
    assert told.pop("t.jsonl:2").startswith("is no JSON: Expecting property name")
    assert told.pop("t.jsonl:11").startswith("is no JSON: ")
    assert told == {
        "t.jsonl:4": "is JSON and no object of columns",
        "t.jsonl:5": "has no text in column 'text'",
        "t.jsonl:6": "has no label in column 'label'",
        "t.jsonl:7": "is not UTF-8",
        "t.jsonl:8": "is not UTF-8",
        "t.jsonl:9": "has a list in column 'text', and no text",
        "t.jsonl:10": "has no label in column 'label'",
    }


def test_labels_of_parquet_keep_what_they_mean(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "text": pyarrow.array([b"a", b"b", b"\xff", b"d", None], pyarrow.binary()),
        "gaps": [3.0, None, 1.0, float("nan"), 2.5],
        "flags": [True, False, None, True, True],
        "kinds": pyarrow.array(["x", "y", "x", "y", "x"]).dictionary_encode(),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert [row.label for row in read(tmp_path / "t.parquet", label="gaps")] == [
        "3", "", "1", "", "2.5",
    ]  # fmt: skip
    rows = read(tmp_path / "t.parquet", label="flags")
    assert [row.label for row in rows] == ["True", "False", "", "True", "True"]
    assert problems(rows) == {
        "t.parquet:3": "is not UTF-8", "t.parquet:5": "has no text in column 'text'"
    }  # fmt: skip
    assert [row.label for row in read(tmp_path / "t.parquet", label="kinds")] == [*"xyxyx"]


def test_strings_of_parquet_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    parquet = pytest.importorskip("pyarrow.parquet")
    strings = pyarrow.array([b"good", b"caf\xe9"], pyarrow.binary())
    table = pyarrow.table({"text": strings.view(pyarrow.string()), "label": ["x", "y"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    rows = read(tmp_path / "t.parquet")
    assert [row.texts[0] for row in rows if not row.problem] == ["good"]
    assert problems(rows) == {"t.parquet:2": "is not UTF-8"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_missing_column_gives_the_near_miss(
    tmp_path: Path, write_table: WriteTable, ending: str
) -> None:
    path = write_table(tmp_path / f"t{ending}", [{"text": "a", "labels": "x"}])
    with pytest.raises(DataError, match=r"no column 'label'\. It has: .*Did you mean 'labels'\?"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.txt", b"text,label\n", r"ends in '\.txt'\. Allowed: \.csv, \.tsv, \.jsonl, \.parquet"),
        ("t.json", b"{}", r"Did you mean '\.jsonl'"),
        ("t.csv", b"", r"no column 'text'\. It has: none"),
        ("t.csv", "text,label\n".encode("utf-16"), "first line is not UTF-8. Save the table as"),
        ("t.parquet", b"", "is no whole Parquet file"),
        ("t.parquet", b"PAR1 nonsense PAR1", "is no whole Parquet file"),
        ("t.jsonl", json.dumps({"txt": 1}).encode(), "Did you mean 'txt'"),
    ],
)
def test_what_is_no_table_is_explained(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    if name == "t.parquet":
        pytest.importorskip("pyarrow", exc_type=ImportError)
    with pytest.raises(DataError, match=said):
        read(table(tmp_path, content, name))


def test_a_parquet_file_that_was_cut_short_or_changed_is_refused(
    tmp_path: Path, write_table: WriteTable
) -> None:
    path = write_table(tmp_path / "t.parquet", [{"text": f"a{i}", "label": "x"} for i in range(99)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="is no whole Parquet file"):
        read(path)
    path.write_bytes(whole[:4] + b"\xff" * 100 + whole[104:])
    with pytest.raises(DataError, match="t.parquet: "):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for ending in (".csv", ".tsv", ".jsonl"):
        with pytest.raises(DataError, match=f"none{ending}: cannot be read: "):
            read(tmp_path / f"none{ending}")


def test_parquet_without_a_pyarrow_that_works_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyarrow").mkdir()
    (tmp_path / "pyarrow" / "__init__.py").write_text("raise ImportError('needs NumPy 2')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    with pytest.raises(DataError, match="which cannot be imported: needs NumPy 2"):
        read(tmp_path / "t.parquet")
