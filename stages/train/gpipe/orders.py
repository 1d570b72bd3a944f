"""Orders: which micro-batch a stage works on, and when. Without any clock: a stage waits for input.

K stages, M micro-batches, stage 0 first:

gpipe    all forward, then all backward in the same order (so gradients add up as in one process)
1f1b     stage k runs K-k-1 forwards ahead, then one backward for each forward: at most K-k
         micro-batches are alive on it, whatever M is (PipeDream-flush, arXiv 2006.09503)
zero_bubble  as 1f1b, but backward is only the gradient of the input, for which another stage
         waits; that of the weights comes up to 2k micro-batches later on stage k, and fills what
         would be a wait. Nobody waits for the first stage, which does both at once. With M >= 2K-1,
         2K-1 micro-batches are alive on each stage, and where the three parts take about equally
         long a stage waits for its first input only (ZB-H2 of "Zero Bubble Pipeline Parallelism",
         arXiv 2401.10241, with one optimizer step after all); with fewer, K (ZB-H1)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["forward", "backward", "weights"]
Schedule = Literal["gpipe", "1f1b", "zero_bubble"]


@dataclass(frozen=True, slots=True)
class Work:
    """One micro-batch through one stage, in one direction, or its gradients of weights."""

    kind: Kind
    micro_batch: int


def order(schedule: Schedule, stage: int, stages: int, micro_batches: int) -> tuple[Work, ...]:
    """Return what a stage does in one step, in order."""
    if schedule == "zero_bubble":
        return tuple(_zero_bubble(stage, stages, micro_batches))
    ahead = micro_batches if schedule == "gpipe" else min(stages - stage - 1, micro_batches)
    forwards = [Work("forward", m) for m in range(micro_batches)]
    backwards = [Work("backward", m) for m in range(micro_batches)]
    works, rest = forwards[:ahead], forwards[ahead:]
    for forward, backward in zip(rest, backwards, strict=False):
        works += [forward, backward]
    return (*works, *backwards[len(rest) :])


def defers_weights(schedule: Schedule, stage: int) -> bool:
    """Return whether a stage computes gradients of weights apart from those of inputs."""
    return schedule == "zero_bubble" and stage > 0


def _zero_bubble(stage: int, stages: int, micro_batches: int) -> Iterator[Work]:
    defers = defers_weights("zero_bubble", stage)
    pace = 2 if micro_batches >= 2 * stages - 1 else 1
    ahead, behind = (min(pace * k, micro_batches) for k in (stages - stage - 1, stage))
    for m in range(ahead):
        yield Work("forward", m)
    for m in range(micro_batches):
        if m + ahead < micro_batches:
            yield Work("forward", m + ahead)
        yield Work("backward", m)
        if defers and m >= behind:
            yield Work("weights", m - behind)
    for m in range(micro_batches - behind, micro_batches):
        yield Work("weights", m)


def most_alive(schedule: Schedule, stage: int, stages: int, micro_batches: int) -> int:
    """Return how many micro-batches have gone forward and are not yet done with, at most."""
    ends = "weights" if defers_weights(schedule, stage) else "backward"
    alive = most = 0
    for work in order(schedule, stage, stages, micro_batches):
        alive += (work.kind == "forward") - (work.kind == ends)
        most = max(most, alive)
    return most
