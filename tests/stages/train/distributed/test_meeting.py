"""Ranks of one attempt find each other, whatever earlier attempts have left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore, Store

from stages.train.distributed.meeting import meet

SOON = timedelta(seconds=20)


def attempt(store: Store, world: int) -> list[Store]:
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: meet(store, rank, world, SOON), range(world)))


@pytest.mark.parametrize("world", [1, 2, 5])
def test_every_attempt_has_keys_of_its_own_that_all_its_ranks_see(world):
    store = HashStore()
    for number in range(3):
        stores = attempt(store, world)
        assert not any(one.check(["address"]) for one in stores)
        stores[0].set("address", str(number))
        assert all(one.get("address") == str(number).encode() for one in stores)


def test_a_rank_that_comes_before_the_first_one_does_not_follow_a_dead_one():
    store = HashStore()
    dead, _ = attempt(store, 2)
    dead.set("address", "old")
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(meet, store, 1, 2, SOON)
        with pytest.raises(TimeoutError, match=r"^$"):  # the dead one's name is not enough
            early.result(timeout=0.3)
        first = meet(store, 0, 2, SOON)
        first.set("address", "new")
        assert early.result().get("address") == b"new"


def test_an_attempt_that_nobody_else_joined_leaves_no_trace_in_the_next():
    store = HashStore()
    with pytest.raises(TimeoutError, match="rank 1 did not come"):
        meet(store, 0, 2, timedelta(seconds=0.2))
    one, other = attempt(store, 2)
    one.set("address", "new")
    assert other.get("address") == b"new"


def test_a_rank_that_is_never_called_gives_up_in_time():
    with pytest.raises(TimeoutError, match="the first rank did not come"):
        meet(HashStore(), 1, 2, timedelta(seconds=0.2))
