"""NaN and Inf: tolerated, stopped, or rolled back, always said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageFailed
from stages.train.guard import Guard

CHECKED = {"check_every": 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 5))
def test_it_trips_exactly_when_more_bad_steps_come_in_a_row_than_tolerated(steps, tolerate):
    guard = Guard.on(torch.device("cpu"), tolerate)
    longest = current = 0
    for bad in steps:
        guard.record(torch.tensor(bad))
        current = current + 1 if bad else 0
        longest = max(longest, current)
    assert guard.look() == (sum(steps), longest > tolerate)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 30))
def test_saved_counters_go_on_as_if_never_saved(steps, cut):
    kept, first = Guard.on(torch.device("cpu"), 2), Guard.on(torch.device("cpu"), 2)
    for bad in steps[:cut]:
        kept.record(torch.tensor(bad))
        first.record(torch.tensor(bad))
    kept.look(), first.look()
    second = Guard.on(torch.device("cpu"), 2)
    second.load_state_dict(first.state_dict())
    for bad in steps[cut:]:
        kept.record(torch.tensor(bad))
        second.record(torch.tensor(bad))
    assert kept.look() == second.look()


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
