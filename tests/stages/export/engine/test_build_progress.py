from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.export.engine.build_progress import BuildProgress


def test_a_phase_counts_for_one_step_of_its_parent() -> None:
    progress = BuildProgress(lambda percent, phase: None)
    progress.start("build", None, 4)
    progress.step("build", 0)
    progress.start("optimize", "build", 2)
    progress.step("optimize", 0)
    assert progress.share("optimize") == pytest.approx((1 + 1 / 2) / 4)


EVENTS = st.tuples(st.sampled_from("abc"), st.sampled_from(["", "a", "b"]), st.integers(0, 5))


@given(st.lists(st.tuples(st.sampled_from(["start", "step", "finish"]), EVENTS), max_size=60))
def test_the_bar_never_goes_back_nor_beyond_its_end(
    events: list[tuple[str, tuple[str, str, int]]],
) -> None:
    told: list[int] = []
    progress = BuildProgress(lambda percent, phase: told.append(percent))
    for what, (name, parent, number) in events:
        if what == "start":
            progress.start(name, parent or None, number)
        elif what == "step":
            progress.step(name, number)
        else:
            progress.finish(name)
    assert told == sorted(set(told))
    assert all(0 <= percent <= 100 for percent in told)
