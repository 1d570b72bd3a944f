"""A pipeline over ranks trains what one process would have trained."""

from __future__ import annotations

import pytest

ROUNDING = 1e-6


@pytest.mark.parametrize(
    "name", ["gpipe", "1f1b x data", "recomputed", "by blocks", "interleaved", "zero bubble"]
)
def test_stages_on_several_ranks_train_what_one_process_trains(attempts, name):
    assert attempts.errors(name) == [""] * len(attempts.reports[name][0])
    assert attempts.difference("alone", name) < ROUNDING
    assert attempts.metrics(name)["top1"] == attempts.metrics("alone")["top1"]


def test_dropout_draws_what_it_draws_in_one_process(attempts):
    assert attempts.difference("dropout on one", "dropout on ranks") < ROUNDING
    assert attempts.difference("alone", "dropout on ranks") > 100 * ROUNDING


def test_one_process_goes_on_where_a_pipeline_was_killed(attempts):
    assert [rank["signal"] for rank in attempts.reports["ranks to 1"][0]] == [9, 0]
    assert "LostRank" in attempts.errors("ranks to 1")[1]
    assert attempts.errors("ranks to 1", 1) == [""]
    assert attempts.difference("alone", "ranks to 1") < ROUNDING


def test_one_loss_scale_serves_all_stages(attempts):
    assert attempts.errors("fp16 ranks") == ["", ""]
    assert attempts.metrics("fp16 ranks")["top1"] > 0.9


def test_pieces_of_unequal_size_are_refused_with_a_number_that_works(attempts):
    for error in attempts.errors("uneven"):
        assert "3 does not divide the 16 images" in error
        assert "Use 2, another batch_size, or engine: processes" in error


def test_ranks_that_are_no_multiple_of_the_stages_are_refused(attempts):
    for error in attempts.errors("3 for 2 stages"):
        assert "3 processes cannot be arranged as copies of 2 stages" in error
