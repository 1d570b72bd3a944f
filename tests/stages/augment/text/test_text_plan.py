"""What training does to rows of tokens: never to marks, and never to all of a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.artifacts import Tokens
from stages.augment.text.operations import DropTokens, MaskTokens, TextOperation
from stages.augment.text.plan import TextPlan, alter, make_text_plan, padded

MASK = 4
MARKS = (2, 3)
TOKENS = Tokens(vocabulary=99, length=40, padding=0, separator=3)

Rows = list[NDArray[np.int32]]

shares = st.floats(0, 0.99)
operations = st.lists(
    st.one_of(shares.map(lambda s: DropTokens(share=s)), shares.map(lambda s: MaskTokens(share=s))),
    max_size=4,
)
texts = st.lists(st.lists(st.integers(5, 98), max_size=30), min_size=1, max_size=6)
keys = st.lists(st.integers(0, 99), min_size=1, max_size=4)


def plan(*operations: TextOperation) -> TextPlan:
    return make_text_plan(Path("tokenizer.json"), TOKENS, operations)


def marked(texts: list[list[int]]) -> tuple[Rows, list[NDArray[np.bool_]]]:
    rows = [np.array([2, *text, 3], dtype=np.int32) for text in texts]
    return rows, [np.isin(row, MARKS) for row in rows]


@given(texts, operations, st.sampled_from([None, MASK]), keys)
def test_marks_stay_and_a_text_keeps_a_token_of_its_own(
    texts: list[list[int]], operations: list[TextOperation], mask: int | None, key: list[int]
) -> None:
    rows, marks = marked(texts)
    for before, after in zip(rows, alter(rows, marks, plan(*operations), mask, key), strict=True):
        assert after.dtype == np.int32
        assert (after[0], after[-1]) == (2, 3)
        own = [token for token in after[1:-1] if token != MASK]
        assert bool(own) == (len(before) > 2)
        kept = iter(before[1:-1])
        assert all(token in kept for token in own)  # in their order


@given(texts, st.lists(shares, max_size=3), keys)
def test_masking_keeps_the_length(
    texts: list[list[int]], shares: list[float], key: list[int]
) -> None:
    rows, marks = marked(texts)
    altered = alter(rows, marks, plan(*(MaskTokens(share=s) for s in shares)), MASK, key)
    for before, after in zip(rows, altered, strict=True):
        assert len(after) == len(before)
        assert np.isin(after[before != after], [MASK]).all()


@given(texts, keys)
def test_a_share_of_nothing_changes_nothing(texts: list[list[int]], key: list[int]) -> None:
    rows, marks = marked(texts)
    altered = alter(rows, marks, plan(DropTokens(share=0), MaskTokens(share=0)), MASK, key)
    assert all(np.array_equal(a, b) for a, b in zip(rows, altered, strict=True))


@given(texts, operations, keys)
def test_the_same_key_does_the_same_and_rows_are_left_as_they_were(
    texts: list[list[int]], operations: list[TextOperation], key: list[int]
) -> None:
    rows, marks = marked(texts)
    copies = [row.copy() for row in rows]
    first, second = (alter(rows, marks, plan(*operations), MASK, key) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(rows, copies, strict=True))


@pytest.mark.parametrize("operation", [DropTokens(share=0.3), MaskTokens(share=0.3)])
def test_the_share_is_that_of_the_tokens_and_another_key_draws_others(
    operation: TextOperation,
) -> None:
    rows, marks = marked([list(range(5, 98))] * 60)
    one, other = (alter(rows, marks, plan(operation), MASK, (seed,)) for seed in (1, 2))
    left = np.mean([np.isin(row, range(5, 98)).sum() / 93 for row in one])
    assert left == pytest.approx(0.7, abs=0.03)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_without_a_mask_masked_tokens_are_left_out() -> None:
    rows, marks = marked([list(range(5, 98))])
    (row,) = alter(rows, marks, plan(MaskTokens(share=0.5)), None, (0,))
    assert 20 < len(row) < 75


@given(st.lists(st.lists(st.integers(1, 98), max_size=40), max_size=5), st.integers(4, 60))
def test_padding_keeps_contents_and_is_no_longer_than_it_must_be(
    texts: list[list[int]], length: int
) -> None:
    rows = [np.array(text[:length], dtype=np.int32) for text in texts]
    longest = max(map(len, rows), default=0)
    tokens = Tokens(vocabulary=99, length=length, padding=0, separator=3)
    whole = padded(rows, tokens)
    width = whole.shape[1]
    assert whole.dtype == np.int32
    assert longest <= width <= length
    assert width == length or (width % 8 == 0 and width - max(longest, 1) < 8)
    for row, filled in zip(rows, whole, strict=True):
        assert np.array_equal(filled[: len(row)], row)
        assert not filled[len(row) :].any()
