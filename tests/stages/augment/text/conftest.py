"""Small generated tables in every format, and a `DataSpec` over texts with any transform."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import DataSpec, Split
from pipeline.files import write_atomic
from stages.augment.spec import TransformSpec
from stages.augment.text.features import TOKENIZER_FILE, TextFeatures
from stages.augment.text.tokenizer import bounded, describe_tokens, make_tokenizer

NUM_TEXTS = 90
NUM_CLASSES = 3
_SYLLABLES = ("ka", "to", "mi", "re", "su", "no", "la", "ve", "chi", "po")

Rows = Sequence[Mapping[str, object]]
MakeSpec = Callable[..., DataSpec]
WriteTable = Callable[[Path, Rows], Path]


def sentence(rng: np.random.Generator, words: int) -> str:
    """Some words of a language that nobody speaks."""
    lengths = rng.integers(1, 4, words)
    return " ".join("".join(rng.choice(_SYLLABLES, length)) for length in lengths)


@pytest.fixture(scope="session")
def texts() -> list[tuple[str]]:
    """Texts of one part, of 1 to 40 words."""
    rng = np.random.default_rng(5)
    return [(sentence(rng, int(rng.integers(1, 41))),) for _ in range(NUM_TEXTS)]


@pytest.fixture(scope="session")
def pairs(texts: list[tuple[str]]) -> list[tuple[str, str]]:
    """Texts of two parts."""
    return [(one, other) for (one,), (other,) in zip(texts, texts[1:] + texts[:1], strict=True)]


@pytest.fixture
def rows(texts: list[tuple[str]]) -> list[dict[str, object]]:
    """Rows of a table, whose label is one of three words."""
    return [
        {"text": text, "label": ("bad", "fair", "good")[i % NUM_CLASSES]}
        for i, (text,) in enumerate(texts)
    ]


@pytest.fixture(scope="session")
def write_table() -> WriteTable:
    """Write rows in the format that the path's ending names."""

    def write(path: Path, rows: Rows) -> Path:
        columns = list(rows[0])
        if path.suffix == ".parquet":
            pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
            parquet = pytest.importorskip("pyarrow.parquet")
            table = {name: [row[name] for row in rows] for name in columns}
            parquet.write_table(pyarrow.table(table), path)
        elif path.suffix == ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                delimiter = "\t" if path.suffix == ".tsv" else ","
                writer = csv.DictWriter(file, columns, delimiter=delimiter)
                writer.writeheader()
                writer.writerows(rows)
        return path

    return write


@pytest.fixture
def make_text_spec(tmp_path: Path, texts: list[tuple[str]]) -> MakeSpec:
    """Build a `DataSpec` whose splits are all the same texts."""

    def make(
        train: Sequence[object] = (),
        *,
        texts: Sequence[tuple[str, ...]] = texts,
        batch_size: int = 8,
        **text: object,
    ) -> DataSpec:
        features = TextFeatures.model_validate({"vocabulary": 200, "length": 48, **text})
        transforms = tmp_path / "transforms.json"
        TransformSpec.model_validate({"train": list(train), "text": features}).save(transforms)
        tokenizer = make_tokenizer(features, texts)
        tokens = describe_tokens(tokenizer, features, len(texts[0]))
        write_atomic(tmp_path / TOKENIZER_FILE, bounded(tokenizer, features.length).to_str())
        manifest = tmp_path / "all.jsonl"
        lines = [json.dumps({"text": t, "label": i % NUM_CLASSES}) for i, t in enumerate(texts)]
        manifest.write_text("\n".join(lines) + "\n")
        split = Split(manifest=manifest, samples=len(texts))
        return DataSpec(
            kind="text", name="test", backend="tokens", reader="text", transforms=transforms,
            splits={"train": split, "eval": split, "calibration": split},
            classes=tuple(f"class {label}" for label in range(NUM_CLASSES)),
            height=0, width=0, channels=0, mean=(), std=(), batch_size=batch_size, digest="test",
            preprocess=tmp_path / TOKENIZER_FILE, tokens=tokens,
        )  # fmt: skip

    return make
