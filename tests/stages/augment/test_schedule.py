"""Which samples stand in which batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import DataError
from stages.augment.schedule import Schedule


def make(
    samples: int, batch_size: int, train: bool, seed: int = 0, world: int = 1
) -> list[Schedule]:
    return [
        Schedule(
            samples=samples, batch_size=batch_size, train=train, seed=seed, rank=r, world=world
        )
        for r in range(world)
    ]


counts = st.integers(1, 200)


@given(counts, st.integers(1, 17), st.integers(1, 5), st.integers(0, 3))
def test_train_shards_are_disjoint_equally_long_and_whole(
    samples: int, batch_size: int, world: int, epoch: int
) -> None:
    assume(samples // world >= batch_size)
    shards = make(samples, batch_size, True, world=world)
    orders = [shard.order(epoch) for shard in shards]
    assert len({shard.num_batches for shard in shards}) == 1
    assert {len(order) for order in orders} == {shards[0].num_batches * batch_size}
    together = np.concatenate(orders)
    assert len(np.unique(together)) == len(together)
    # What is dropped is less than one batch for each process, and at most a remainder of dealing.
    assert samples - len(together) < world * batch_size + world


@given(counts, st.integers(1, 17), st.integers(1, 5))
def test_eval_shards_cover_everything_once(samples: int, batch_size: int, world: int) -> None:
    assume(samples >= world)
    shards = make(samples, batch_size, False, world=world)
    orders = [shard.order(0) for shard in shards]
    assert sorted(np.concatenate(orders).tolist()) == list(range(samples))
    for shard, order in zip(shards, orders, strict=True):
        batches = [shard.batch(order, number) for number in range(shard.num_batches)]
        assert np.array_equal(np.concatenate(batches), order)
        assert all(len(batch) for batch in batches)


@given(counts, st.integers(0, 5))
def test_train_order_is_a_permutation_that_changes_with_seed_and_epoch(
    samples: int, epoch: int
) -> None:
    assume(samples > 12)
    (one,), (other,) = make(samples, 1, True), make(samples, 1, True, seed=1)
    assert sorted(one.order(epoch).tolist()) == list(range(samples))
    assert np.array_equal(one.order(epoch), one.order(epoch))
    assert not np.array_equal(one.order(epoch), one.order(epoch + 1))
    assert not np.array_equal(one.order(epoch), other.order(epoch))


def test_over_epochs_no_sample_is_always_dropped() -> None:
    (schedule,) = make(10, 4, True)
    seen = {int(p) for epoch in range(30) for p in schedule.order(epoch)}
    assert seen == set(range(10))


def test_no_two_batches_share_a_key() -> None:
    shards = make(50, 5, True, world=2)
    keys = [s.key(epoch, number) for s in shards for epoch in range(3) for number in range(5)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0. Allowed: 1 or more"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"batch_size": 9, "world": 2}, "10 samples make no batch of 9 for each of 2"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Schedule(**{"samples": 10, "batch_size": 2, "train": True, **arguments})
