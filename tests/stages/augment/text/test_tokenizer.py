"""From texts to tokens: the same each time, below the vocabulary, no longer than asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.errors import DataError
from stages.augment.text.features import ALGORITHMS, TextFeatures
from stages.augment.text.tokenizer import (
    bounded,
    describe_tokens,
    encode,
    load_tokenizer,
    make_tokenizer,
    mask_of,
    unknown_of,
)

Texts = list[tuple[str, ...]]

algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
START, END, MASK = 2, 3, 4


def features(algorithm: str = "wordpiece", **settings: object) -> TextFeatures:
    return TextFeatures.model_validate(
        {"tokenizer": algorithm, "vocabulary": 128, "length": 16, **settings}
    )


def word_level(vocabulary: dict[str, int], unknown: str = "<unk>") -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@algorithms
@pytest.mark.parametrize("vocabulary", [64, 128, 8192])
def test_the_same_texts_make_the_same_tokenizer(
    texts: Texts, algorithm: str, vocabulary: int
) -> None:
    first, *others = (
        make_tokenizer(features(algorithm, vocabulary=vocabulary), texts).to_str() for _ in range(4)
    )
    assert all(other == first for other in others)


@algorithms
def test_another_process_makes_the_same_tokenizer(texts: Texts, algorithm: str) -> None:
    code = (
        "import json, sys\n"
        "from stages.augment.text.features import TextFeatures\n"
        "from stages.augment.text.tokenizer import make_tokenizer\n"
        "texts, features = json.load(sys.stdin)\n"
        "print(make_tokenizer(TextFeatures(**features), texts).to_str())"
    )
    wanted = features(algorithm)
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps([texts, wanted.model_dump()]),
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout.strip() == make_tokenizer(wanted, texts).to_str()


@algorithms
@given(seen=st.lists(st.text(max_size=30), max_size=6), new=st.text(max_size=60))
def test_any_text_is_between_its_marks_below_the_vocabulary_and_no_longer_than_asked(
    algorithm: str, seen: list[str], new: str
) -> None:
    asked = features(algorithm, vocabulary=1000)
    tokenizer = bounded(make_tokenizer(asked, [("a",), *((text,) for text in seen)]), 16)
    tokens = describe_tokens(tokenizer, asked, 1)
    rows, marks = encode(tokenizer, [(new,), *((text,) for text in seen)])
    for row, mark in zip(rows, marks, strict=True):
        assert len(row) == len(mark) <= tokens.length
        assert (row[0], row[-1]) == (START, END)
        assert max(row) < tokens.vocabulary <= 1000
        assert mark == [1, *([0] * (len(row) - 2)), 1]


@algorithms
@given(one=st.integers(1, 40), other=st.integers(1, 40), length=st.integers(5, 24))
def test_pairs_have_three_marks_and_are_cut_at_the_longer_part(
    algorithm: str, one: int, other: int, length: int
) -> None:
    tokenizer = bounded(make_tokenizer(features(algorithm), [("a b",)]), length)
    ((row,), (marks,)) = encode(tokenizer, [("a " * one, "b " * other)])
    assert (row[0], row[-1], row.count(END), sum(marks)) == (START, END, 2, 3)
    assert len(row) == min(length, one + other + 3)
    first, second = row.index(END) - 1, len(row) - row.index(END) - 2
    assert first == one or second == other or abs(first - second) <= 1
    assert first > 0
    assert second > 0


def test_capitals_and_accents_count_only_when_asked() -> None:
    for lowercase in (True, False):
        tokenizer = make_tokenizer(features(lowercase=lowercase), [("cafe Café",)])
        rows, _ = encode(tokenizer, [("cafe",), ("CAFÉ",)])
        assert (rows[0] == rows[1]) is lowercase


@algorithms
def test_the_smallest_of_texts_make_a_tokenizer_all_the_same(algorithm: str) -> None:
    for few in ([("a",)], [("a\0",)] * 2, [("word",)] * 9, [("🎉",), ("a b",)]):
        tokenizer = make_tokenizer(features(algorithm, vocabulary=8192), few)
        assert encode(tokenizer, few[:1])[0][0][1] not in (0, 1)


@algorithms
@pytest.mark.parametrize("nothing", [[], [(" ",)], [("\x01\t",)]])
def test_texts_without_a_letter_are_refused(algorithm: str, nothing: Texts) -> None:
    with pytest.raises(DataError, match=r"hold no letter.* Check dataset\.column"):
        make_tokenizer(features(algorithm), nothing)


@algorithms
def test_more_letters_than_tokens_are_refused(algorithm: str) -> None:
    chinese = [("".join(map(chr, range(0x4E00, 0x4E80))),)]
    with pytest.raises(DataError, match=r"text\.vocabulary: 128 tokens are fewer than .* letters"):
        make_tokenizer(features(algorithm), chinese)
    made = make_tokenizer(features(algorithm, vocabulary=8192), chinese)
    assert encode(made, [("\u4e01",)])[0][0][1] > MASK


def test_a_loaded_tokenizer_gives_the_same_tokens(texts: Texts, tmp_path: Path) -> None:
    made = make_tokenizer(features(), texts)
    loaded = load_tokenizer(saved(made, tmp_path))
    assert encode(loaded, texts) == encode(made, texts)
    assert describe_tokens(loaded, features(), 1) == describe_tokens(made, features(), 1)
    assert (mask_of(loaded), unknown_of(loaded)) == (MASK, 1)


def test_a_tokenizer_s_own_padding_and_numbers_with_gaps_are_kept(tmp_path: Path) -> None:
    tokenizer = word_level({"*": 7, "</s>": 2, "a": 40})
    tokenizer.enable_padding(pad_id=7, pad_token="*")
    loaded = load_tokenizer(saved(tokenizer, tmp_path))
    tokens = describe_tokens(loaded, features(), 1)
    assert (tokens.padding, tokens.separator, tokens.vocabulary) == (7, 2, 41)
    assert (mask_of(loaded), unknown_of(loaded)) == (None, None)
    again = load_tokenizer(saved(bounded(loaded, 16), tmp_path))
    assert encode(again, [("a a",)]) == ([[40, 40]], [[0, 0]])


def test_a_tokenizer_without_padding_or_without_an_unknown_token_is_explained() -> None:
    tokenizer = word_level({"a": 0})
    with pytest.raises(DataError, match=r"mine\.json: the tokenizer has no token to pad with"):
        describe_tokens(tokenizer, features("mine.json"), 1)
    with pytest.raises(DataError, match=r"cannot split the texts: .*Missing \[UNK\]"):
        encode(tokenizer, [("a b",)])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the tokenizer cannot be read: .*No such file"),
        (b"\xff\xfe", "the tokenizer cannot be read: "),
        (b"not json", "is no tokenizer.json of the tokenizers package"),
        (b'{"model": {}}', "is no tokenizer.json of the tokenizers package"),
    ],
)
def test_what_is_no_tokenizer_is_explained(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(DataError, match=f"t.json: {said}"):
        load_tokenizer(tmp_path / "t.json")


def test_a_name_that_is_no_tokenizer_gives_the_near_miss() -> None:
    with pytest.raises(ValidationError, match=r"'wordpeice' is none.*Did you mean 'wordpiece'\?"):
        features("wordpeice")
    assert features("mine/tokenizer.json").is_loaded


def test_what_looks_like_a_mark_in_a_text_is_text(texts: Texts) -> None:
    tokenizer = bounded(make_tokenizer(TextFeatures(vocabulary=128), texts), 32)
    [tokens], [marks] = encode(tokenizer, [("one [SEP] two [PAD] [CLS]",)])
    assert [tokens[i] for i, mark in enumerate(marks) if mark] == [tokens[0], tokens[-1]]
    assert not {0, START, END, MASK} & set(tokens[1:-1])
