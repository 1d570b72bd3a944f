"""StopFlag: a signal asks for a stop, loops poll it, and it happens where state is whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from pipeline.errors import Interrupted


@dataclass
class StopFlag:
    """Set by SIGINT or SIGTERM (or by hand in tests); polled by every loop."""

    signal_name: str = ""

    @property
    def requested(self) -> bool:
        """Whether a stop has been asked for."""
        return bool(self.signal_name)

    def request(self, signal_name: str) -> None:
        """Ask for a stop at the next place where state is whole."""
        self.signal_name = signal_name

    def check(self) -> None:
        """Raise if a stop has been asked for; call it where nothing would be lost.

        Raises:
            Interrupted: a stop was asked for.
        """
        if self.signal_name:
            raise Interrupted(
                f"stopped by {self.signal_name}; run the same command again to go on from here."
            )


@contextmanager
def catch_signals(flag: StopFlag) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM set the flag; a second one stops at once."""

    def handle(number: int, _: FrameType | None) -> None:
        flag.request(signal.Signals(number).name)
        for caught, handler in before.items():
            signal.signal(caught, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
