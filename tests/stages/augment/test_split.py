"""Splits are seeded, stratified and disjoint."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from stages.augment.split import stratified_sample, stratified_split

LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=40).map(
    lambda rest: [0, 1, 2, 3] * 2 + rest
)


@given(labels=LABELS, share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_every_sample_is_in_one_part_and_every_class_in_both(
    labels: list[int], share: float, seed: int
) -> None:
    train, held_out = stratified_split(labels, share, seed)
    assert sorted(train + held_out) == list(range(len(labels)))
    assert {labels[i] for i in train} == {labels[i] for i in held_out} == set(labels)
    assert (train, held_out) == stratified_split(labels, share, seed)


@given(seed=st.integers(0, 99), repeats=st.integers(1, 4))
def test_equal_contents_are_never_torn_apart(seed: int, repeats: int) -> None:
    contents = [f"content {i // repeats}" for i in range(6 * repeats)]
    train, held_out = stratified_split([0] * len(contents), 0.3, seed, groups=contents)
    assert not {contents[i] for i in train} & {contents[i] for i in held_out}


@given(labels=LABELS, count=st.integers(1, 60), seed=st.integers(0, 99))
def test_a_sample_has_the_wanted_size_and_the_shares_of_its_classes(
    labels: list[int], count: int, seed: int
) -> None:
    chosen = stratified_sample(labels, count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, len(labels))
    whole, drawn = Counter(labels), Counter(labels[i] for i in chosen)
    for label, size in whole.items():
        assert abs(drawn[label] - len(chosen) * size / len(labels)) <= 3
        if count >= len(whole):
            assert drawn[label] >= 1


def test_another_seed_makes_another_split() -> None:
    assert stratified_split([0] * 50, 0.5, 0) != stratified_split([0] * 50, 0.5, 1)


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError, match="class number 1 has 1 distinct sample"):
        stratified_split([0, 0, 1], 0.5, 0)
