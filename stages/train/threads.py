"""Threads: how many CPU threads torch computes with."""

from __future__ import annotations

import os
from typing import Literal


def resolve_threads(choice: int | Literal["auto"], processes: int = 1) -> int:
    """Return the number that was asked for; ``auto`` leaves one core to the loader and the machine.

    Args:
        choice: as configured.
        processes: that train on this host; they share its cores.

    oneDNN's threads spin at barriers. When they are as many as the cores, anything else that runs
    makes each barrier wait for a time slice: 2 threads on 2 cores beside one busy process trained a
    ResNet in bf16 at a tenth of the speed of 1 thread.
    """
    if choice != "auto":
        return choice
    return max(1, (len(os.sched_getaffinity(0)) - 1) // processes)
