"""Courier: brings carries and gradients to a stage and takes them away; and how a stage works.

    work_off(cell, works, courier, stamps)      # one optimizer step of one stage

Every engine runs its stages by this loop, so that they differ in their couriers only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from stages.train.gpipe.cell import Cell, Grads
from stages.train.gpipe.chain import Carry
from stages.train.gpipe.orders import Work
from stages.train.gpipe.timeline import Span, Timeline

STAMPS_PER_WORK = 3
"""Start and end, in seconds of the monotonic clock, and CPU seconds in between."""
Stamps: TypeAlias = "memoryview[float]"
"""Where a stage notes times; memory that several processes see, if they have to."""


class Courier(Protocol):
    """What lies between a stage and its neighbours. Micro-batches come in order."""

    def take_forward(self, m: int) -> Carry:
        """Wait for the input of micro-batch m."""
        ...

    def give_forward(self, m: int, carry: Carry) -> None:
        """Pass the output of micro-batch m on."""
        ...

    def take_backward(self, m: int) -> Grads | None:
        """Wait for the gradients of what was passed on; None on the last stage."""
        ...

    def give_backward(self, m: int, grads: Grads) -> None:
        """Pass the gradients of the input back."""
        ...


def work_off(cell: Cell, works: Sequence[Work], courier: Courier, stamps: Stamps) -> None:
    """Do the work of one stage in one optimizer step, in order."""
    clock, cpu_clock = time.perf_counter, time.thread_time
    place = 0
    for work in works:
        m = work.micro_batch
        if work.kind == "forward":
            carry = courier.take_forward(m)
            start, cpu = clock(), cpu_clock()
            carry = cell.forward(m, carry)
            end = clock()  # before the neighbour is woken, who may take this core
            courier.give_forward(m, carry)
        elif work.kind == "backward":
            grads = courier.take_backward(m)
            start, cpu = clock(), cpu_clock()
            grads = cell.backward(m, grads)
            end = clock()
            courier.give_backward(m, grads)
        else:
            start, cpu = clock(), cpu_clock()
            cell.weights(m)
            end = clock()
        stamps[place] = start
        stamps[place + 1] = end
        stamps[place + 2] = cpu_clock() - cpu
        place += STAMPS_PER_WORK


def stamps_in(memory: bytearray | memoryview[int]) -> Stamps:
    """Return memory as room for stamps."""
    return memoryview(memory).cast("d")


def empty_stamps(works: int) -> Stamps:
    """Return room for the stamps of so many pieces of work."""
    return stamps_in(bytearray(8 * STAMPS_PER_WORK * works))


def timeline_of(orders: Sequence[Sequence[Work]], stamps: Sequence[Stamps]) -> Timeline:
    """Put the stamps of all stages together; time 0 is the first start."""
    zero = min(min(of_one[::STAMPS_PER_WORK]) for of_one in stamps)
    spans = [
        Span(
            stage=stage,
            work=work,
            start_s=stamps[stage][STAMPS_PER_WORK * place] - zero,
            end_s=stamps[stage][STAMPS_PER_WORK * place + 1] - zero,
        )
        for stage, works in enumerate(orders)
        for place, work in enumerate(works)
    ]
    micro_batches = 1 + max(work.micro_batch for work in orders[0])
    return Timeline(stages=len(orders), micro_batches=micro_batches, spans=tuple(spans))


def cpu_seconds_of(stamps: Stamps) -> float:
    """Return the CPU time that a stage's work took."""
    return sum(stamps[STAMPS_PER_WORK - 1 :: STAMPS_PER_WORK])
