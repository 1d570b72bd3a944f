"""The stage on texts: from a table to loaders and a chapter, and what may be said in the YAML."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import DataError
from pipeline.report.blocks import load_section
from stages.augment import measure
from stages.augment.config import AugmentConfig
from stages.augment.loader import open_loader, preprocess_texts, read_texts
from stages.augment.stage import Augment

WriteTable = Callable[[Path, Sequence[Mapping[str, object]]], Path]
Rows = list[dict[str, object]]

SMALL = {"text": {"vocabulary": 200, "length": 24}, "batch_size": 8}


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure.measure_throughput.__kwdefaults__, "seconds", 0.05)


def stage(**settings: object) -> Augment:
    return Augment(AugmentConfig.model_validate(settings))


def run(folder: Path, **settings: object) -> DataSpec:
    folder.mkdir(exist_ok=True)
    return stage(**{**SMALL, **settings}).run(Context(dir=folder))


@pytest.fixture
def table(tmp_path: Path, write_table: WriteTable, rows: Rows) -> Path:
    return write_table(tmp_path / "reviews.csv", rows)


def test_a_damaged_table_becomes_tokens_and_its_damage_is_named(
    table: Path, tmp_path: Path
) -> None:
    whole = table.read_bytes()
    header, first, rest = whole.split(b"\r\n", 2)
    table.write_bytes(b"\r\n".join([header, b"too few", first, b"caf\xe9,good", rest]))
    spec = run(tmp_path / "out", dataset={"text": str(table)})
    assert (spec.kind, spec.reader, spec.backend) == ("text", "text", "tokens")
    assert (spec.name, spec.classes) == ("reviews", ("bad", "fair", "good"))
    assert (spec.input.dtype, spec.input.shape) == ("int32", (-1, -1))
    assert (spec.mean, spec.std, spec.height) == ((), (), 0)
    assert spec.tokens is not None
    assert (spec.tokens.length, spec.tokens.parts) == (24, 1)
    assert {name: split.samples for name, split in spec.splits.items()} == {
        "train": 72, "eval": 18, "calibration": 72,
    }  # fmt: skip
    damaged = json.loads((tmp_path / "out" / "damaged.json").read_text())
    assert damaged == [
        {"name": "reviews.csv:2", "problem": "has 1 fields, and the header 2"},
        {"name": "reviews.csv:4", "problem": "is not UTF-8"},
    ]
    with closing(open_loader(spec, "eval")) as loader:
        assert sum(len(batch.inputs) for batch in loader) == 18
    section = load_section(tmp_path / "out")
    told = str(section)
    for word in (
        "Words, least / median / most", "Unknown tokens", "wordpiece, ", "Training texts",
        "Equal texts in train and eval", "int32 tokens, up to 24 a text", "[CLS] ",
        "reviews.csv:4", "drop_tokens",
    ):  # fmt: skip
        assert word in told
    assert section.summary == "72 training and 18 eval texts in 3 classes; 2 damaged ones left out."
    assert "image" not in told


def test_the_digest_changes_with_what_makes_tokens(table: Path, tmp_path: Path) -> None:
    dataset = {"text": str(table)}
    one = run(tmp_path / "one", dataset=dataset)
    assert run(tmp_path / "two", dataset=dataset).digest == one.digest
    assert run(tmp_path / "two", dataset=dataset, train=["mask_tokens"]).digest == one.digest
    for other in ({"vocabulary": 100}, {"length": 16}, {"tokenizer": "bpe"}, {"lowercase": False}):
        text = {**SMALL["text"], **other}  # type: ignore[dict-item]
        assert run(tmp_path / "other", dataset=dataset, text=text).digest != one.digest


def test_a_tokenizer_is_loaded_and_goes_with_the_stage(table: Path, tmp_path: Path) -> None:
    made = run(tmp_path / "one", dataset={"text": str(table)})
    mine = tmp_path / "mine.json"
    assert made.preprocess is not None
    mine.write_bytes(made.preprocess.read_bytes())
    text = {"tokenizer": str(mine), "length": 24}
    loaded = run(tmp_path / "two", dataset={"text": str(table)}, text=text)
    assert loaded.preprocess == tmp_path / "two" / "tokenizer.json"
    assert loaded.tokens == made.tokens
    texts = read_texts(loaded, "eval")
    assert (preprocess_texts(loaded, texts) == preprocess_texts(made, texts)).all()
    assert f"{mine}, " in str(load_section(tmp_path / "two"))


def test_a_strange_tokenizer_of_one_s_own_works_to_the_end(table: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 3, "*": 90}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(pad_id=90, pad_token="*")
    tokenizer.save(str(tmp_path / "mine.json"))
    text = {"tokenizer": str(tmp_path / "mine.json"), "length": 24}
    spec = run(tmp_path / "out", dataset={"text": str(table)}, text=text)
    assert spec.tokens is not None
    assert (spec.tokens.padding, spec.tokens.vocabulary) == (90, 91)
    assert preprocess_texts(spec, [("a b",)]).tolist() == [[3, 3] + [90] * 6]
    assert "the tokenizer has no such token" in str(load_section(tmp_path / "out"))


def test_question_and_context_are_one_text_even_after_a_damaged_row(
    tmp_path: Path, write_table: WriteTable, pairs: list[tuple[str, str]]
) -> None:
    rows = [
        {"question": one, "context": other, "answer": i % 2 == 0}
        for i, (one, other) in enumerate(pairs)
    ]
    path = write_table(tmp_path / "pairs.jsonl", rows)
    path.write_text("no json\n" + path.read_text())
    dataset = {"text": str(path), "column": ["question", "context"], "label": "answer"}
    spec = run(tmp_path / "out", dataset=dataset)
    assert spec.tokens is not None
    assert (spec.tokens.parts, spec.classes) == (2, ("False", "True"))
    assert set(read_texts(spec, "train")) | set(read_texts(spec, "eval")) == set(pairs)
    with closing(open_loader(spec, "train")) as loader:
        for batch in loader:
            assert ((batch.inputs == spec.tokens.separator).sum(dim=1) == 2).all()


def test_labels_that_training_never_saw_are_named(
    table: Path, tmp_path: Path, write_table: WriteTable
) -> None:
    held_out = write_table(tmp_path / "dev.csv", [{"text": "a", "label": "superb"}])
    with pytest.raises(DataError, match=r"no usable training text in 1 class\(es\): superb"):
        run(tmp_path / "out", dataset={"text": str(table), "eval": str(held_out)})


@pytest.mark.parametrize(
    ("other", "settings", "said"),
    [
        ([{"text": "a", "label": "x"}] * 9, {}, r"1 class \(x\).*Name the column of the class"),
        ([{"text": "a", "label": ""}] * 9, {}, r"0 class \(\).*Name the column of the class"),
        (None, {"batch_size": 80}, "train split has 72 texts, not one full batch"),
        (None, {"text": {"vocabulary": 64, "tokenizer": "none.json"}}, "cannot be read"),
        ([{"text": "...", "label": i % 2} for i in range(20)], {"on_error": "fail"},
         r"has 1 distinct sample"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_explained(
    tmp_path: Path, write_table: WriteTable, rows: Rows, other: Rows | None,
    settings: dict[str, object], said: str,
) -> None:  # fmt: skip
    path = write_table(tmp_path / "t.csv", other or rows)
    with pytest.raises(DataError, match=said):
        run(tmp_path / "out", dataset={"text": str(path)}, **settings)


def test_a_rehearsal_takes_a_few_batches_of_texts(table: Path, tmp_path: Path) -> None:
    settings = {"dataset": {"text": str(table)}, **SMALL}
    rehearsal = {**settings, "limit_batches": 2, "calibration": {"samples": 16}}
    assert stage(**settings).fast_dev_run() == {"limit_batches": 2, "calibration.samples": 16}
    spec = run(tmp_path / "out", **rehearsal)
    assert [spec.splits[name].samples for name in ("train", "eval")] == [16, 16]
    fewest = run(tmp_path / "few", **{**settings, "batch_size": 2, "limit_batches": 1})
    assert fewest.splits["train"].samples == 2  # of three classes


def test_what_is_not_there_is_told_before_anything_runs(tmp_path: Path, table: Path) -> None:
    (tmp_path / "t.txt").touch()
    (tmp_path / "folder.csv").mkdir()
    for path, said in (
        (tmp_path / "review.csv", "Did you mean 'reviews.csv'?"),
        (tmp_path / "t.txt", "a table ends in '.csv', '.tsv', '.jsonl' or '.parquet'"),
        (tmp_path / "folder.csv", "is a folder, and a table is expected"),
    ):
        dataset = {"text": str(table), "eval": str(path)}
        (problem,) = stage(dataset=dataset).check(CPU)
        assert problem.path == "dataset.eval"
        assert said in problem.message
    config = {"dataset": {"text": str(table)}, "text": {"tokenizer": "no/tokenizer.json"}}
    first, second = stage(**config, backend="torchvision").check(CPU)
    assert (first.path, second.path) == ("text.tokenizer", "backend")
    assert "'tokens'" in second.message


def test_the_state_changes_with_the_table_and_with_the_tokenizer_to_load(
    table: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    loading = stage(dataset={"text": str(table)}, text={"tokenizer": str(mine)})
    states = [loading.fingerprint(CPU)]
    assert loading.fingerprint(CPU) == states[0]
    for change in (lambda: table.write_text("text,label\n"), lambda: mine.write_text("[]")):
        change()
        states.append(loading.fingerprint(CPU))
    table.unlink()
    mine.unlink()
    states.append(loading.fingerprint(CPU))
    assert len({json.dumps(dict(state), sort_keys=True) for state in states}) == 4
    assert "tokenizer" not in stage(dataset={"text": str(table)}).fingerprint(CPU)


def test_what_was_read_reads_again_as_the_same() -> None:
    dataset = {"text": "t.csv", "column": ["a", "b"], "label": "y", "sha256": "0" * 64}
    config = AugmentConfig.model_validate(
        {"dataset": dataset, "text": {"tokenizer": "bpe"}, "train": ["mask_tokens", "drop_tokens"]}
    )
    assert config.kind == "text"
    assert AugmentConfig.model_validate_json(config.model_dump_json()) == config


TABLE = {"text": "t.csv"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": {"txt": "t.csv"}}, "Did you mean 'text'?"),
        ({"dataset": "package"}, "Did you mean 'packages'?"),
        ({"dataset": "t.csv"}, "for a table of texts {text: t.csv}"),
        ({"dataset": {**TABLE, "sha256": "abc"}}, "should match pattern"),
        ({"dataset": {**TABLE, "colum": "x"}}, "Extra inputs"),
        ({"dataset": "digits", "text": {}}, "text: is for texts, and the data set holds images"),
        ({"dataset": "keywords", "text": {}}, "the data set holds clips of sound"),
        ({"dataset": TABLE, "audio": {}}, "audio: is for clips of sound, and the data set holds t"),
        ({"dataset": TABLE, "train": ["flip"]}, "'flip' works on images, and the data set holds t"),
        ({"dataset": TABLE, "train": ["mixup"]}, "Allowed: 'drop_tokens' or 'mask_tokens'"),
        ({"dataset": TABLE, "train": ["gain"]}, "'gain' works on clips of sound"),
        ({"dataset": TABLE, "train": ["drop_token"]}, "Did you mean 'drop_tokens'?"),
        ({"dataset": TABLE, "train": [{"drop_tokens": {"share": 1.0}}]}, "less than 1"),
        ({"dataset": "packages", "eval": ["resize"]}, "'resize' works on images"),
        ({"dataset": "digits", "train": ["drop_tokens"]}, "'drop_tokens' works on texts"),
        ({"dataset": TABLE, "size": 32}, "set text: {length: ...}"),
        ({"dataset": TABLE, "channels": 1}, "size and channels are for images"),
        ({"dataset": TABLE, "mean_std": "half"}, "mean_std and eval are for images and clips"),
        ({"dataset": TABLE, "text": {"tokenizer": "wordpeice"}}, "Did you mean 'wordpiece'?"),
        ({"dataset": TABLE, "text": {"vocabulary": 5}}, "greater than or equal to 64"),
        ({"dataset": TABLE, "text": {"lenght": 5}}, "Extra inputs"),
    ],
)
def test_a_wrong_setting_is_explained(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AugmentConfig.model_validate(settings)
    assert said in str(caught.value)
    assert caught.value.error_count() == 1


def test_operations_on_texts_are_random_and_not_for_eval() -> None:
    with pytest.raises(ValidationError, match="DropTokens is random as it stands"):
        AugmentConfig.model_validate({"dataset": TABLE, "eval": ["drop_tokens"]})


def test_a_spec_without_its_tokenizer_is_explained(table: Path, tmp_path: Path) -> None:
    spec = run(tmp_path / "out", dataset={"text": str(table)})
    with pytest.raises(DataError, match="the tokenizer cannot be read"):
        open_loader(replace(spec, preprocess=tmp_path / "gone.json"), "eval")
