"""From tables to samples: classes, parts, hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import Split
from pipeline.context import Context
from pipeline.errors import DataError
from stages.augment.reader import TextReader
from stages.augment.text.source import TextSource, _classes, open_text

WriteTable = Callable[[Path, Sequence[Mapping[str, object]]], Path]


def opened(train: Path, held_out: Path | None = None, **options: str) -> TextSource:
    return open_text(train, held_out, ("text",), "label", **options)


def labelled(*labels: object) -> list[dict[str, object]]:
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def test_classes_that_are_numbers_stand_in_their_order(
    tmp_path: Path, write_table: WriteTable
) -> None:
    source = opened(write_table(tmp_path / "t.jsonl", labelled(10, 9, -1, 9.0)))
    assert source.classes == ("-1", "9", "10")
    assert [source.classes[item.label] for item in source.items] == ["10", "9", "-1", "9"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "x"], ("10", "9", "x")),
        (["--5", "4"], ("--5", "4")),
        (["01", "1", "0"], ("0", "01", "1")),
        (["9" * 5000, "1"], ("1", "9" * 5000)),
        ([], ()),
    ],
)
def test_classes_that_are_not_all_numbers_stand_as_words_do(
    labels: list[str], classes: tuple[str, ...]
) -> None:
    assert _classes(labels) == _classes(reversed(labels)) == classes


@given(st.lists(st.text(max_size=5) | st.integers().map(str), unique=True))
def test_any_labels_have_one_order(labels: list[str]) -> None:
    assert _classes(labels) == _classes(reversed(labels))
    assert set(_classes(labels)) == set(labels)


def test_a_second_table_is_the_eval_part(tmp_path: Path, write_table: WriteTable) -> None:
    train = write_table(tmp_path / "train.csv", labelled("a", "b"))
    held_out = write_table(tmp_path / "dev.jsonl", labelled("b", "c"))
    source = opened(train, held_out)
    assert [item.part for item in source.items] == ["train", "train", "eval", "eval"]
    assert [item.name for item in source.items] == [
        "train.csv:2", "train.csv:3", "dev.jsonl:1", "dev.jsonl:2",
    ]  # fmt: skip
    assert source.classes == ("a", "b", "c")
    assert (source.name, opened(train).items[0].part) == ("train", "any")


def test_a_table_of_another_hash_is_refused(tmp_path: Path, write_table: WriteTable) -> None:
    path = write_table(tmp_path / "t.csv", labelled("a", "b"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert opened(path, sha256=digest) == opened(path, sha256=digest[:8].upper()) == opened(path)
    with pytest.raises(DataError, match=f"its SHA-256 is {digest}, and dataset.sha256 says 0000"):
        opened(path, sha256="00000000")
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        opened(tmp_path / "none.csv", sha256="00000000")


@pytest.mark.parametrize(
    ("name", "content"), [("t.csv", "text,label\n"), ("t.jsonl", ""), ("t.tsv", "text\tlabel\n\n")]
)
def test_a_table_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: has no row"):
        opened(tmp_path / name)


def test_case_and_space_make_no_other_text(tmp_path: Path, write_table: WriteTable) -> None:
    given_texts = ("A  cat", "a cat ", "a dog", "acat")
    rows = [{"text": text, "label": "x"} for text in given_texts]
    findings = opened(write_table(tmp_path / "t.csv", rows)).inspect(Context(dir=tmp_path))
    first, second, *others = (finding.sha256 for finding in findings)
    assert first == second
    assert len({first, *others}) == 3
    assert [finding.words for finding in findings] == [2, 2, 2, 1]


def test_half_a_letter_is_damage_and_no_mishap(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "\\ud83d", "label": "x"}\n')
    (finding,) = opened(tmp_path / "t.jsonl").inspect(Context(dir=tmp_path))
    assert finding.problem == "is not UTF-8"


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), min_size=1)), min_size=1))
def test_what_a_manifest_holds_is_what_was_read(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str]]
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    rows = ({"text": text, "label": i % 2} for i, (text,) in enumerate([*texts, ("end",)]))
    (folder / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = opened(folder / "t.jsonl")
    split = Split(manifest=source.write_manifest("all", range(len(texts)), folder), samples=1)
    reader = TextReader.read(split.manifest)
    assert reader.texts == list(source.texts[:-1])
    assert reader.labels.tolist() == [item.label for item in source.items[:-1]]
