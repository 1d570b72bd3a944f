from __future__ import annotations

import os

from stages.train.threads import resolve_threads


def test_auto_leaves_one_core_to_the_loader_and_takes_at_least_one() -> None:
    assert resolve_threads("auto") == max(1, len(os.sched_getaffinity(0)) - 1)


def test_a_number_is_taken_as_it_is() -> None:
    assert resolve_threads(7) == 7
