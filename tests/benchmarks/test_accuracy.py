"""Curves of accuracy, their figures, and the data that they are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import Curve, Point, figures_of, hold_out, read_pair, write_blobs

FAST = Curve([Point(10, 0.90), Point(20, 0.93)])
SLOW = Curve([Point(15, 0.90), Point(30, 0.91), Point(45, 0.95)])
NEVER = Curve([Point(50, 0.5)])


def test_a_mark_is_reached_at_the_end_of_the_first_epoch_that_is_good_enough():
    assert FAST.seconds_to(0.90) == 10
    assert FAST.seconds_to(0.901) == 20
    assert FAST.seconds_to(0.94) == float("inf")
    assert FAST.last.top1 == 0.93


def test_figures_are_of_all_seeds_and_a_ratio_above_one_is_in_time():
    figures = figures_of("ours", [FAST, SLOW, NEVER], {0.92: 40})
    assert figures["ours: share of seeds that reach 92.0%"] == pytest.approx(2 / 3)
    assert figures["ours: s to 92.0%, mean of those"] == pytest.approx((20 + 45) / 2)
    assert figures["ours: 40 s / s to 92.0%, median seed"] == pytest.approx(40 / 45)
    assert figures["ours: top-1 at the end, worst seed"] == 0.5


def test_a_mark_that_no_seed_reaches_is_zero_and_not_infinite():
    figures = figures_of("naive", [NEVER], {0.92: 40})
    assert figures["naive: 40 s / s to 92.0%, median seed"] == 0
    assert not any("mean of those" in name for name in figures)


def test_held_out_images_come_from_the_training_part_and_are_learned_from_no_more(tmp_path: Path):
    write_blobs(tmp_path, classes=10, train=120, test=30)
    whole, _ = read_pair(tmp_path, "train")
    for name in ("images-idx3", "labels-idx1"):  # held out of, not looked at
        (tmp_path / f"t10k-{name}-ubyte.gz").unlink()
    folder = tmp_path / "parts"
    folder.mkdir()
    hold_out(tmp_path, folder)
    rest, _ = read_pair(folder, "train")
    held, labels = read_pair(folder, "t10k")
    assert len(held) == 20
    assert sorted(np.unique(labels, return_counts=True)[1]) == [2] * 10
    both = np.concatenate((rest, held)).reshape(120, -1)
    assert {row.tobytes() for row in both} == {row.tobytes() for row in whole.reshape(120, -1)}
