"""Orders: which micro-batch a stage works on, and when. Without any clock: a stage waits for input.

K stages, M micro-batches, stage 0 first:

gpipe    all forward, then all backward in the same order (so gradients add up as in one process)
1f1b     stage k runs K-k-1 forwards ahead, then one backward for each forward: at most K-k
         micro-batches are alive on it, whatever M is (PipeDream-flush, arXiv 2006.09503)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["forward", "backward"]
Schedule = Literal["gpipe", "1f1b"]


@dataclass(frozen=True, slots=True)
class Work:
    """One micro-batch through one stage, in one direction."""

    kind: Kind
    micro_batch: int


def order(schedule: Schedule, stage: int, stages: int, micro_batches: int) -> tuple[Work, ...]:
    """Return what a stage does in one step, in order."""
    ahead = micro_batches if schedule == "gpipe" else min(stages - stage - 1, micro_batches)
    forwards = [Work("forward", m) for m in range(micro_batches)]
    backwards = [Work("backward", m) for m in range(micro_batches)]
    works, rest = forwards[:ahead], forwards[ahead:]
    for forward, backward in zip(rest, backwards, strict=False):
        works += [forward, backward]
    return (*works, *backwards[len(rest) :])


def most_alive(schedule: Schedule, stage: int, stages: int, micro_batches: int) -> int:
    """Return how many micro-batches have gone forward and not yet back on a stage, at most."""
    alive = most = 0
    for work in order(schedule, stage, stages, micro_batches):
        alive += 1 if work.kind == "forward" else -1
        most = max(most, alive)
    return most
