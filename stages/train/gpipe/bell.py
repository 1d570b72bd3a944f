"""Bell: how one process tells another that something lies ready in their shared memory.

It is a pipe with a byte for every ring. Rings are counted, the listener wakes within microseconds,
and when the other process dies, whatever the reason, the pipe closes and the listener knows.
"""

from __future__ import annotations

import os
import select
import time

SPIN_S = 50e-6
"""Look again and again for so long before going to sleep, which costs more than that to wake."""


class NobodyThere(Exception):
    """The process at the other end has gone, or the one in charge has something to say."""


class Ringer:
    """The end that rings."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def ring(self) -> None:
        """Tell that one more thing is ready.

        Raises:
            NobodyThere: nobody listens any more.
        """
        try:
            os.write(self.fd, b"!")
        except BrokenPipeError:
            raise NobodyThere from None


class Listener:
    """The end that waits; it also wakes for what happens on other descriptors."""

    def __init__(self, fd: int, others: tuple[int, ...]) -> None:
        self.fd = fd
        self._poll = select.poll()
        for watched in (fd, *others):
            self._poll.register(watched, select.POLLIN)

    def wait(self, timeout_s: float) -> None:
        """Wait for a ring, and count it as heard.

        Raises:
            TimeoutError: there was none in time.
            NobodyThere: there will be none, or another descriptor has news.
        """
        if not (ready := self._poll.poll(0)):
            spin_until = time.monotonic() + SPIN_S
            while not ready and time.monotonic() < spin_until:
                ready = self._poll.poll(0)
        if not ready:
            ready = self._poll.poll(1000 * timeout_s)
        if not ready:
            raise TimeoutError
        # What is ready counts before any news: a neighbour may have ended after its last ring.
        if any(fd == self.fd and event & select.POLLIN for fd, event in ready):
            os.read(self.fd, 1)
            return
        raise NobodyThere
