"""Several processes train what one would have trained; checkpoints go from any number to any."""

from __future__ import annotations

import numpy as np
import pytest

ROUNDING = 1e-6


@pytest.mark.parametrize("name", ["ddp 2", "ddp 4", "fsdp 2"])
def test_several_processes_train_what_one_trains(attempts, name):
    assert attempts.difference("alone", name) < ROUNDING


def test_gradients_averaged_after_the_backward_pass_are_as_good(attempts):
    assert attempts.difference("averaged 1", "averaged 2") < ROUNDING


@pytest.mark.parametrize("name", ["ddp 2", "ddp 4", "fsdp 2"])
def test_metrics_over_ranks_are_those_of_one_process(attempts, name):
    one, several = attempts.metrics("alone"), attempts.metrics(name)
    assert several["top1"] == one["top1"]
    assert several["loss"] == pytest.approx(one["loss"], abs=ROUNDING)
    assert several["steps"] == one["steps"]


@pytest.mark.parametrize("name", ["ddp 2", "ddp 4", "fsdp 2", "more than pictures"])
def test_every_picture_is_evaluated_once_and_in_order(attempts, name):
    truth = np.load(attempts.folder / "data" / "eval_labels.npy")
    saved = np.load(attempts.folder / name / "predictions.npz")
    assert saved["targets"].tolist() == truth.tolist()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_killed_run_that_goes_on_is_equal_to_the_bit(attempts, kind):
    signals = [rank["signal"] for rank in attempts.reports[f"killed {kind}"][0]]
    assert 9 in signals
    assert attempts.difference(f"whole {kind}", f"killed {kind}") == 0


@pytest.mark.parametrize("name", ["1 to fsdp 2", "fsdp 2 to ddp 4", "ddp 2 to 1"])
def test_another_number_of_processes_goes_on_with_the_same_samples(attempts, name):
    """Without random transforms and dropout, that is: those begin anew."""
    assert attempts.difference("alone", name) < ROUNDING


def test_survivors_of_a_dead_rank_end_with_an_error_that_says_so(attempts):
    errors = [error for error in attempts.errors("killed ddp") if error]
    assert len(errors) == 3
    assert all("LostRank: rank" in error and "was lost" in error for error in errors)


def test_a_stop_on_one_rank_stops_all_at_the_same_step(attempts):
    assert all("Interrupted: stopped by SIGTERM" in e for e in attempts.errors("stopped"))
    assert attempts.errors("stopped", 1) == ["", ""]
    assert attempts.difference("fsdp 2", "stopped") == 0


@pytest.mark.parametrize("name", ["bad", "bad fsdp"])
def test_a_bad_loss_on_one_rank_trips_the_guard_of_all(attempts, name):
    assert all("was not finite around step" in error for error in attempts.errors(name))


def test_all_ranks_roll_back_together(attempts):
    assert attempts.errors("rolled back") == ["", ""]


def test_one_loss_scale_serves_all_ranks(attempts):
    assert attempts.errors("fp16 ddp") == ["", ""]
    assert attempts.difference("alone", "fp16 ddp") < 0.05


def test_shards_and_a_searched_loss_scale_are_refused(attempts):
    assert all("'fsdp' does not go with precision fp16" in e for e in attempts.errors("fp16 fsdp"))


def test_a_batch_that_cannot_be_shared_is_refused_with_what_could(attempts):
    errors = attempts.errors("3 for 16")
    assert all("16 images cannot be shared equally by 3 processes" in error for error in errors)
    assert all("Use 15 or 18" in error for error in errors)
