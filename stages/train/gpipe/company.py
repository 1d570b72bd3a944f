"""Company: how much longer blocks take where the other stages of a pipeline compute beside them.

Cores share caches and memory, and more stages than cores take turns on them. A profile times blocks
alone; here some are timed again with other processes at work, in turns with timings alone. On two
cores a transformer's blocks take 0 to 4 % longer beside one other stage, 8 to 11 % beside three.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

from stages.train.gpipe.chain import Chain
from stages.train.gpipe.memory import Autocast, Loss
from stages.train.gpipe.profile import profile_chain

ROUNDS = 5
BUDGET_S = 10.0
"""After which no further round begins."""
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
# As a stage does it: products with more weights than a core's cache holds. It ends with its parent:
# on Linux even while it is stopped (PR_SET_PDEATHSIG is 1), elsewhere when its input does.
_WORK = """
import ctypes, os, signal, sys, threading
import numpy
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
x = numpy.ones((256, 192), "f4")
weights = [(numpy.ones((192, 768), "f4"), numpy.ones((768, 192), "f4")) for _ in range(4)]
print(flush=True)
while True:
    for up, down in weights:
        y = numpy.maximum(x @ up, 0) @ down
        y -= y.mean(1, keepdims=True)
"""


@dataclass(kw_only=True)
class Crowding:
    """How many times as long blocks take, by the number of stages at work on this machine."""

    chain: Chain
    images: torch.Tensor
    """A micro-batch."""
    loss: Loss
    autocast: Autocast
    cores: int
    _known: dict[int, float] = field(default_factory=dict)

    def __call__(self, stages: int) -> float:
        """Return the factor, at least 1; measured once."""
        others = min(stages, 2 * self.cores) - 1  # beyond, stages wait, and cost no more
        if others not in self._known:
            self._known[others] = self._measure(others) if others else 1.0
        return self._known[others]

    def _measure(self, others: int) -> float:
        with _company(others) as company:
            ratios: list[float] = []
            began = time.perf_counter()
            while len(ratios) < ROUNDS and time.perf_counter() - began < BUDGET_S:
                by_itself = self._seconds()
                with _at_work(company):
                    ratios.append(self._seconds() / by_itself)
        return max(1.0, median(ratios))

    def _seconds(self) -> float:
        size = len(self.images)
        profile = profile_chain(
            self.chain, self.images, (size,), loss=self.loss, autocast=self.autocast, rounds=1
        )
        return profile.step_s(size, 1)


def alone(stages: int) -> float:
    """Return 1: every stage has a machine or a device of its own."""
    return 1.0


@contextmanager
def _company(others: int) -> Iterator[list[int]]:
    """Yield the process ids of so many that could work and do not yet."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_other()) for _ in range(others)]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
            process.send_signal(signal.SIGSTOP)
        yield [process.pid for process in processes]


@contextmanager
def _other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _WORK],
        env={**os.environ, **_ONE_THREAD},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the parent, which ends it
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _at_work(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
