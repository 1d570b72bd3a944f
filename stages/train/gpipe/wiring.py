"""Wiring: the pipes between neighbouring processes, and which end belongs to whom."""

from __future__ import annotations

import os
from multiprocessing.reduction import send_handle

from stages.train.gpipe.bell import Listener, Ringer
from stages.train.gpipe.crew import Member
from stages.train.gpipe.slots import Bells


class Wiring:
    """Two pipes at each boundary: one for what goes forward, one for what comes back."""

    def __init__(self, stages: int) -> None:
        self._last = stages - 1
        # (read end, write end) of boundary k, which lies before stage k
        self._ahead = {boundary: os.pipe() for boundary in range(1, stages)}
        self._back = {boundary: os.pipe() for boundary in range(1, stages)}

    def send(self, member: Member) -> None:
        """Give the process of a stage its ends, in the order in which it takes them."""
        stage, pid = member.stage, member.process.pid
        ends = [self._ahead[stage + 1][1], self._back[stage + 1][0]]
        if stage > 0:
            ends += [self._ahead[stage][0], self._back[stage][1]]
        for end in ends:
            send_handle(member.control, end, pid)

    def keep_last(self, others: tuple[int, ...]) -> Bells:
        """Close all ends but those of the last stage, so that each process notices when one dies.

        Args:
            others: descriptors whose news the last stage must not miss.
        """
        listens, rings = self._ahead[self._last][0], self._back[self._last][1]
        self._own = (listens, rings)
        for end in (end for pipe in (*self._ahead.values(), *self._back.values()) for end in pipe):
            if end not in self._own:
                os.close(end)
        return Bells(input_ready=Listener(listens, others), input_grad_ready=Ringer(rings))

    def close(self) -> None:
        """Close the ends of the last stage."""
        for end in self._own:
            os.close(end)
