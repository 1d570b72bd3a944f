"""The simulator, by what no schedule can beat and by what is known in closed form."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.train.gpipe.orders import order
from stages.train.gpipe.simulate import Times, simulate

SCHEDULES = ["gpipe", "1f1b"]
SECONDS = st.integers(1, 40).map(lambda n: n / 8)
STAGES = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=5)
MICRO_BATCHES = st.integers(1, 9)


def run(schedule, stages, micro_batches, link_s=0.0, cores=None):
    times = Times(
        forward_s=[f for f, _ in stages],
        backward_s=[b for _, b in stages],
        link_s=[link_s] * (len(stages) - 1),
    )
    return simulate(schedule, times, micro_batches, cores=cores)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(stages=st.integers(1, 8), micro_batches=st.integers(1, 16))
def test_equal_stages_leave_exactly_the_bubble_of_the_paper(schedule, stages, micro_batches):
    timeline = run(schedule, [(1.0, 2.0)] * stages, micro_batches)
    assert timeline.makespan_s == 3 * (micro_batches + stages - 1)
    ideal = float(Fraction(stages - 1, micro_batches + stages - 1))
    assert timeline.bubble == pytest.approx(ideal, abs=1e-12)
    assert timeline.ideal_bubble == ideal


@given(
    stages=st.integers(1, 6), more=st.integers(0, 9), forward_s=SECONDS, weights_s=SECONDS,
    share=st.floats(0, 1),
)  # fmt: skip
def test_with_weights_later_equal_stages_wait_for_their_first_input_only(
    stages, more, forward_s, weights_s, share
):
    """As long as a gradient of inputs takes no longer than twice any of the other two."""
    backward_s = share * 2 * min(forward_s, weights_s)
    first = backward_s + weights_s  # for which nobody waits
    each = Times(
        forward_s=[forward_s] * stages, backward_s=[first, *[backward_s] * (stages - 1)],
        weights_s=[0.0, *[weights_s] * (stages - 1)],
    )  # fmt: skip
    micro_batches = 2 * stages - 1 + more
    found = simulate("zero_bubble", each, micro_batches).makespan_s
    busy = micro_batches * (forward_s + backward_s + weights_s)
    assert found == pytest.approx(busy + (stages - 1) * forward_s)
    whole = Times(forward_s=each.forward_s, backward_s=[first] * stages)
    assert found <= simulate("1f1b", whole, micro_batches).makespan_s + 1e-9


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(stages=STAGES, micro_batches=MICRO_BATCHES, link_s=st.sampled_from([0.0, 0.25, 3.0]))
def test_no_schedule_is_faster_than_its_busiest_stage_or_its_longest_path(
    schedule, stages, micro_batches, link_s
):
    timeline = run(schedule, stages, micro_batches, link_s)
    busiest = max(micro_batches * (f + b) for f, b in stages)
    path = sum(f + b for f, b in stages) + 2 * link_s * (len(stages) - 1)
    assert timeline.makespan_s >= max(busiest, path) - 1e-9
    assert timeline.makespan_s <= micro_batches * path + 1e-9
    for stage, (forward, backward) in enumerate(stages):
        assert timeline.busy_s(stage) == pytest.approx(micro_batches * (forward + backward))


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(stages=STAGES, micro_batches=MICRO_BATCHES, link_s=st.sampled_from([0.0, 0.5]))
def test_work_waits_for_its_input_and_keeps_the_order_of_its_stage(
    schedule, stages, micro_batches, link_s
):
    timeline = run(schedule, stages, micro_batches, link_s)
    ended = {(span.stage, span.work): span.end_s for span in timeline.spans}
    for span in timeline.spans:
        source = span.stage - 1 if span.work.kind == "forward" else span.stage + 1
        if (source, span.work) in ended:
            assert span.start_s >= ended[source, span.work] + link_s
    for stage in range(len(stages)):
        spans = sorted((s for s in timeline.spans if s.stage == stage), key=lambda s: s.start_s)
        assert tuple(s.work for s in spans) == order(schedule, stage, len(stages), micro_batches)
        assert all(a.end_s <= b.start_s for a, b in pairwise(spans))


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(stages=STAGES, micro_batches=MICRO_BATCHES)
def test_on_one_core_nothing_is_gained_and_on_a_core_for_each_stage_nothing_is_lost(
    schedule, stages, micro_batches
):
    total = micro_batches * sum(f + b for f, b in stages)
    assert run(schedule, stages, micro_batches, cores=1).makespan_s == pytest.approx(total)
    free = run(schedule, stages, micro_batches)
    assert run(schedule, stages, micro_batches, cores=len(stages)) == free
    fewer = run(schedule, stages, micro_batches, cores=2)
    assert fewer.makespan_s >= max(total / 2, free.makespan_s) - 1e-9


def test_more_micro_batches_of_the_same_batch_shrink_the_step_towards_its_share():
    steps = [run("gpipe", [(1 / m, 2 / m)] * 4, m).makespan_s for m in (4, 8, 16, 32)]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == pytest.approx(3 * (32 + 3) / 32)
