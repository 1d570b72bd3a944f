"""Rank 0 leads, the others follow; what earlier attempts left in the folder misleads nobody."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.cache import goes_on
from pipeline.errors import Interrupted, StageFailed
from pipeline.interrupt import StopFlag
from pipeline.ranks import Follower, Leader, Place, place_from_environment

WORLD = 3


def attend(folder: Path, rank: int) -> list[str | int]:
    """Follow to the end; return every order."""
    follower = Follower(folder, Place(rank, WORLD), patience_s=20, first_patience_s=20)
    orders: list[str | int] = []
    while not orders or isinstance(orders[-1], str):
        orders.append(follower.next_order(StopFlag()))
    return orders


def lead(folder: Path, work: Callable[[Leader], None]) -> list[list[str | int]]:
    """Lead two followers through what `work` says; return the orders of each."""
    with ThreadPoolExecutor(WORLD) as pool:
        others: list[Future[list[str | int]]] = [
            pool.submit(attend, folder, rank) for rank in range(1, WORLD)
        ]
        leader = Leader(folder, Place(0, WORLD), patience_s=20)
        with leader.at_work():
            work(leader)
        return [other.result(timeout=30) for other in others]


def two_stages(leader: Leader) -> None:
    leader.call("train", StopFlag())
    leader.call("tune", StopFlag())
    leader.dismiss(3)


def test_followers_enter_every_stage_that_calls_and_leave_with_the_exit_code(tmp_path):
    assert lead(tmp_path, two_stages) == [["train", "tune", 3]] * 2


def test_a_run_that_calls_nobody_lets_them_go(tmp_path):
    assert lead(tmp_path, lambda leader: leader.dismiss(0)) == [[0]] * 2


def test_files_of_an_earlier_attempt_mislead_nobody(tmp_path):
    lead(tmp_path, two_stages)
    old = {path.name: path.read_text() for path in tmp_path.glob("*.json")}
    assert old.keys() == {"orders.json", "rank-1.json", "rank-2.json"}
    assert lead(tmp_path, lambda leader: leader.dismiss(0)) == [[0]] * 2


def test_a_rank_that_does_not_come_is_named(tmp_path):
    leader = Leader(tmp_path, Place(0, WORLD), patience_s=0.2)
    with leader.at_work(), pytest.raises(StageFailed, match="rank 1, 2 of 3 did not come"):
        leader.call("train", StopFlag())


def test_a_silent_leader_is_taken_for_dead(tmp_path):
    follower = Follower(tmp_path, Place(1, 2), patience_s=0.2, first_patience_s=0.2)
    with pytest.raises(StageFailed, match="rank 1: no sign of life from rank 0"):
        follower.next_order(StopFlag())


def test_a_leader_that_falls_silent_later_is_noticed_too(tmp_path):
    follower = Follower(tmp_path, Place(1, 2), patience_s=0.3, first_patience_s=20)
    leader = Leader(tmp_path, Place(0, 2), patience_s=20)
    caller = threading.Thread(target=leader.call, args=("train", StopFlag()))
    caller.start()
    assert follower.next_order(StopFlag()) == "train"
    caller.join(timeout=30)
    with pytest.raises(StageFailed, match="no sign of life"):
        follower.next_order(StopFlag())


def test_a_stop_ends_the_wait_of_either_side(tmp_path):
    stop = StopFlag("SIGTERM")
    with pytest.raises(Interrupted, match="SIGTERM"):
        Leader(tmp_path, Place(0, 2)).call("train", stop)
    with pytest.raises(Interrupted, match="SIGTERM"):
        Follower(tmp_path, Place(1, 2)).next_order(stop)


def test_damaged_files_are_waited_out(tmp_path):
    for name in ("orders.json", "rank-1.json", "rank-2.json"):
        (tmp_path / name).write_text("{half")
    assert lead(tmp_path, lambda leader: leader.dismiss(0)) == [[0]] * 2
    assert json.loads((tmp_path / "orders.json").read_text())["exit_code"] == 0


@pytest.mark.parametrize(
    ("rank", "world", "place"),
    [("1", "4", Place(1, 4)), ("", "4", Place()), (None, None, Place())],
)
def test_the_place_comes_from_the_launcher(monkeypatch, rank, world, place):
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert place_from_environment() == place
    assert place.follows == (place.rank > 0)


def test_an_attempt_goes_on_under_other_means_but_not_with_other_settings():
    before = {"setting epochs": "3", "means launch.processes": "1"}
    assert goes_on(before, {**before, "means launch.processes": "4"})
    assert goes_on(before, {**before, "means launch.port": "1"})
    assert not goes_on(before, {**before, "setting epochs": "4"})
    assert not goes_on(None, before)
