"""What loaders of texts promise: order, epochs, resuming, and little that is filled up."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.artifacts import DataSpec
from pipeline.errors import DataError
from stages.augment.batch import Batch, join_batches
from stages.augment.loader import open_loader, preprocess_bytes, preprocess_texts, read_texts
from stages.augment.schedule import Schedule

MakeSpec = Callable[..., DataSpec]
Texts = list[tuple[str, ...]]

RANDOM = [{"drop_tokens": {"share": 0.2}}, {"mask_tokens": {"share": 0.2}}]


def batches_of(spec: DataSpec, split: str = "train", **options: object) -> list[Batch]:
    with closing(open_loader(spec, split, **options)) as loader:  # type: ignore[arg-type]
        return list(loader)


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.inputs, b.inputs)
        and torch.equal(a.targets, b.targets)
        and torch.equal(a.index, b.index)
        for a, b in zip(one, other, strict=True)
    )


def test_batches_are_int32_with_labels_and_positions(make_text_spec: MakeSpec) -> None:
    spec = make_text_spec(RANDOM)
    assert spec.tokens is not None
    for batch in batches_of(spec):
        assert batch.inputs.dtype == torch.int32
        assert batch.inputs.shape[0] == 8
        assert batch.inputs.shape[1] % 8 == 0
        assert batch.inputs.shape[1] <= spec.tokens.length
        assert batch.inputs.max() < spec.tokens.vocabulary
        assert torch.equal(batch.targets, batch.index % 3)


def test_eval_keeps_manifest_order_and_the_short_batch(make_text_spec: MakeSpec) -> None:
    batches = batches_of(make_text_spec(RANDOM), "eval")
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(90))
    assert [len(batch.index) for batch in batches] == [8] * 11 + [2]


def test_train_holds_every_sample_at_most_once_and_drops_the_short_batch(
    make_text_spec: MakeSpec,
) -> None:
    index = torch.cat([batch.index for batch in batches_of(make_text_spec(RANDOM))])
    assert len(index) == len(index.unique()) == 88


def test_batches_of_like_length_are_filled_up_less(make_text_spec: MakeSpec) -> None:
    spec = make_text_spec()
    lengths = (preprocess_texts(spec, read_texts(spec, "train")) != 0).sum(axis=1)
    sorted_cells = sum(batch.inputs.numel() for batch in batches_of(spec))
    plain = Schedule(samples=90, batch_size=8, train=True)
    order = plain.order(0)
    longest = [lengths[plain.batch(order, number)].max() for number in range(plain.num_batches)]
    plain_cells = sum(8 * -(-int(length) // 8) * 8 for length in longest)
    assert sorted_cells < 0.75 * plain_cells


lengths = arrays.arrays(np.int64, st.integers(1, 300), elements=st.integers(1, 64))


@given(lengths, st.integers(1, 9), st.integers(1, 3), st.integers(0, 3))
def test_sorting_by_length_moves_no_sample_to_another_shard(
    lengths: np.ndarray, batch_size: int, world: int, epoch: int
) -> None:
    assume(len(lengths) // world >= batch_size)
    for rank in range(world):
        plain = Schedule(
            samples=len(lengths), batch_size=batch_size, train=True, rank=rank, world=world
        )
        by_length = replace(plain, lengths=lengths)
        order = by_length.order(epoch)
        assert sorted(order) == sorted(plain.order(epoch))
        assert np.array_equal(order, by_length.order(epoch))


def test_resuming_in_mid_epoch_gives_the_batches_that_followed(make_text_spec: MakeSpec) -> None:
    spec = make_text_spec(RANDOM)
    with (
        closing(open_loader(spec, "train", seed=3)) as loader,
        closing(open_loader(spec, "train", seed=3)) as again,
    ):
        running = iter(loader)
        for _ in range(4):
            next(running)
        state = json.loads(json.dumps(loader.state_dict()))
        again.load_state_dict(state)
        assert equal(list(running), list(again))
        assert equal(list(loader), list(again))


def test_shards_are_disjoint(make_text_spec: MakeSpec) -> None:
    spec = make_text_spec()
    shards = [
        torch.cat([batch.index for batch in batches_of(spec, shard=(rank, 3))]).tolist()
        for rank in range(3)
    ]
    assert [len(shard) for shard in shards] == [24, 24, 24]
    assert len(set().union(*shards)) == 72
    held_out = [batches_of(spec, "eval", shard=(rank, 3)) for rank in range(3)]
    seen = sorted(int(i) for shard in held_out for batch in shard for i in batch.index)
    assert seen == list(range(90))


def test_another_seed_is_another_order_and_the_same_seed_the_same(make_text_spec: MakeSpec) -> None:
    spec = make_text_spec(RANDOM)
    one = batches_of(spec, seed=1)
    assert equal(one, batches_of(spec, seed=1))
    other = batches_of(spec, seed=2)
    assert not torch.equal(one[0].index, other[0].index)


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_texts_that_a_caller_holds_become_the_tokens_of_the_eval_loader(
    make_text_spec: MakeSpec, pairs: Texts, algorithm: str
) -> None:
    spec = make_text_spec(RANDOM, texts=pairs, tokenizer=algorithm)
    assert read_texts(spec, "eval") == pairs
    parts = [batch.inputs.numpy() for batch in batches_of(spec, "eval")]
    whole = preprocess_texts(spec, pairs)
    assert np.array_equal(join_batches(parts, spec), whole)
    assert preprocess_texts(spec, []).shape == (0, 8)


def test_what_is_not_of_the_data_set_is_refused(make_text_spec: MakeSpec) -> None:
    spec = make_text_spec()
    with pytest.raises(DataError, match="holds texts; use preprocess_texts"):
        preprocess_bytes(spec, [b"text"])
    with pytest.raises(DataError, match="text 1: has 2 parts. Allowed: 1"):
        preprocess_texts(spec, [("a",), ("a", "b")])
    with pytest.raises(DataError, match="90 samples make no batch of 91"):
        open_loader(spec, "train", batch_size=91)


def test_images_are_no_texts(make_spec: MakeSpec) -> None:
    spec = make_spec()
    with pytest.raises(DataError, match="holds images; use preprocess_bytes"):
        preprocess_texts(spec, [("a",)])
    with pytest.raises(DataError, match="holds images, and no texts"):
        read_texts(spec, "eval")
