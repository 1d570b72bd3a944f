"""NaN and Inf: tolerated, stopped, or rolled back, always said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageFailed
from stages.train.guard import Guard, mark_if_bad

CHECKED = {"check_every": 1}
CPU = torch.device("cpu")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 5))
def test_it_trips_exactly_when_more_bad_steps_come_in_a_row_than_tolerated(steps, tolerate):
    guard = Guard(CPU, tolerate)
    longest = current = 0
    for bad in steps:
        guard.flag().fill_(bad)
        current = current + 1 if bad else 0
        longest = max(longest, current)
    assert guard.look() == (sum(steps), longest > tolerate)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 30))
def test_saved_counters_go_on_as_if_never_saved(steps, cut):
    kept, first = Guard(CPU, 2), Guard(CPU, 2)
    for bad in steps[:cut]:
        kept.flag().fill_(bad)
        first.flag().fill_(bad)
    kept.look(), first.look()
    second = Guard(CPU, 2)
    second.load_state_dict(first.state_dict())
    for bad in steps[cut:]:
        kept.flag().fill_(bad)
        second.flag().fill_(bad)
    assert kept.look() == second.look()


def test_it_counts_by_itself_before_its_flags_run_out():
    guard, bad_steps = Guard(CPU, 2), {1, 1023, 1024, 1025, 2500}
    for step in range(3000):
        guard.flag().fill_(step in bad_steps)
    assert guard.look() == (len(bad_steps), True)
    assert guard.look() == (0, False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=True), min_size=1), min_size=1, max_size=4))
def test_a_flag_is_raised_exactly_by_values_that_are_not_finite(rows):
    tensors = [torch.tensor(row) for row in rows]
    kept = [tensor.clone() for tensor in tensors]
    flag = Guard(CPU, 0).flag()
    mark_if_bad(flag, tensors)
    assert bool(flag) == (not all(tensor.isfinite().all() for tensor in kept))
    for tensor, before in zip(tensors, kept, strict=True):
        torch.testing.assert_close(tensor, before, rtol=0, atol=0, equal_nan=True)


def test_stop_is_the_default_and_says_what_to_do(train_once):
    with pytest.raises(StageFailed, match=r"not finite around step 8, and guard.on_nonfinite is"):
        train_once(model_options={"nan_at": 8, "nan_until": 10**6}, guard=CHECKED)


def test_tolerated_steps_are_skipped_and_said(train_once, recorder):
    train_once(model_options={"nan_at": 8, "nan_until": 9}, guard={"tolerate": 2, "check_every": 5})
    assert any("2 step(s) before step 10" in m for m in recorder.messages("warning"))


def test_a_rollback_goes_on_from_the_last_checkpoint_with_a_lower_rate(train_once, recorder):
    trained = train_once(
        epochs=4, model_options={"nan_at": 11, "nan_until": 11},
        checkpoint={"every_steps": 4}, guard={"on_nonfinite": "rollback", "check_every": 1},
    )  # fmt: skip
    (event,) = recorder.of("rollback")
    assert event.fields == {"at_step": 11, "to_step": 8, "lr_scale": 0.5}
    assert any("back to step 8, learning rate x 0.5" in m for m in recorder.messages("warning"))
    assert trained.metrics["steps"] == 24
    assert all(gate.passed for gate in trained.gates)


def test_rollbacks_come_to_an_end(train_once, recorder):
    with pytest.raises(StageFailed, match=r"again after 2 rollback\(s\) \(guard.max_rollbacks\)"):
        train_once(
            model_options={"nan_at": 8, "nan_until": 10**6},
            checkpoint={"every_steps": 4},
            guard={"on_nonfinite": "rollback", "max_rollbacks": 2, **CHECKED},
        )
    assert [event.fields["lr_scale"] for event in recorder.of("rollback")] == [0.5, 0.25]
