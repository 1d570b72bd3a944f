"""Orders of work, by their properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.train.gpipe.orders import Work, defers_weights, most_alive, order

SCHEDULES = st.sampled_from(["gpipe", "1f1b", "zero_bubble"])
STAGES, MICRO_BATCHES = st.integers(1, 9), st.integers(1, 20)


@given(SCHEDULES, STAGES, MICRO_BATCHES)
def test_every_micro_batch_goes_once_forward_and_then_once_back(schedule, stages, micro_batches):
    for stage in range(stages):
        works = order(schedule, stage, stages, micro_batches)
        kinds = ["forward", "backward", *(["weights"] if defers_weights(schedule, stage) else [])]
        assert len(works) == len(set(works)) == len(kinds) * micro_batches
        for m in range(micro_batches):
            places = [works.index(Work(kind, m)) for kind in kinds]
            assert places == sorted(places)


@given(SCHEDULES, STAGES, MICRO_BATCHES)
def test_backward_passes_come_in_the_order_of_the_forward_passes(schedule, stages, micro_batches):
    for stage in range(stages):
        works = order(schedule, stage, stages, micro_batches)
        for kind in ("forward", "backward"):
            assert [w.micro_batch for w in works if w.kind == kind] == list(range(micro_batches))


@given(STAGES, MICRO_BATCHES)
def test_1f1b_keeps_no_more_micro_batches_alive_than_stages_lie_behind(stages, micro_batches):
    for stage in range(stages):
        most = most_alive("1f1b", stage, stages, micro_batches)
        assert most == min(stages - stage, micro_batches)
        assert most_alive("gpipe", stage, stages, micro_batches) == micro_batches


@given(STAGES, MICRO_BATCHES)
def test_zero_bubble_keeps_as_many_alive_on_each_stage(stages, micro_batches):
    least = min(stages, micro_batches)
    most = 2 * stages - 1 if micro_batches >= 2 * stages - 1 else least
    for stage in range(stages):
        assert most_alive("zero_bubble", stage, stages, micro_batches) == most


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zero_bubble"])
@given(stages=STAGES, micro_batches=MICRO_BATCHES)
def test_no_order_ever_waits_in_a_circle(schedule, stages, micro_batches):
    left = [list(order(schedule, k, stages, micro_batches)) for k in range(stages)]
    done: set[tuple[int, Work]] = set()
    while any(left):
        before = len(done)
        for stage, works in enumerate(left):
            while works:
                work = works[0]
                source = stage - 1 if work.kind == "forward" else stage + 1
                if work.kind != "weights" and 0 <= source < stages and (source, work) not in done:
                    break
                done.add((stage, works.pop(0)))
        assert len(done) > before, "every stage waits"
