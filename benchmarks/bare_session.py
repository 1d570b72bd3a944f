"""Bare session: ONNX Runtime in this process, called in a closed loop with no server in between."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.device import CPU
from stages.export.backends.onnxruntime import OrtSession, open_session


@dataclass(frozen=True, slots=True)
class BareSessions:
    """As many sessions side by side as the server has instances, each with as many threads."""

    sessions: list[OrtSession]
    image: NDArray[np.uint8]  # (1, H, W, C)
    latencies_ms: list[float] = field(default_factory=list)
    """Of every call so far."""

    def answer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits for images."""
        return self.sessions[0](images)

    def run(self, seconds: float) -> int:
        """Let every session answer one image after the other, and return how many there were."""
        end = time.perf_counter() + seconds
        taken: list[list[float]] = [[] for _ in self.sessions]

        def work(session: OrtSession, mine: list[float]) -> None:
            while (started := time.perf_counter()) < end:
                session(self.image)
                mine.append((time.perf_counter() - started) * 1e3)

        pairs = zip(self.sessions, taken, strict=True)
        threads = [threading.Thread(target=work, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for mine in taken:
            self.latencies_ms.extend(mine)
        return sum(map(len, taken))


def open_bare(path: Path, image: NDArray[np.uint8], *, count: int, threads: int) -> BareSessions:
    """Open sessions over one graph."""
    return BareSessions([open_session(path, CPU, threads=threads) for _ in range(count)], image)
