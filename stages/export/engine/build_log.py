"""BuildLog: TensorRT's messages, all of them in a file, the errors at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TextIO

# Without a GPU every message of importance is followed by one about the missing CUDA driver.
_NOISE = ("cudaError 35", "CUDA initialization failure", "Unable to determine GPU memory usage")


@dataclass
class BuildLog:
    """Collects what TensorRT says."""

    file: TextIO
    failures: list[str] = field(default_factory=list)
    logger: object = None
    """What TensorRT is handed."""

    def write(self, severity: str, message: str) -> None:
        """Append one message, which may have many lines."""
        if any(noise in message for noise in _NOISE):
            return
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.failures.append(message.strip())
        # flushed at once: the last lines before a crash are the ones that matter
        print(f"[{severity}] {message}", file=self.file, flush=True)

    def errors(self) -> str:
        """Return the distinct errors, one a line."""
        return "\n".join(dict.fromkeys(self.failures))


@contextmanager
def open_log(trt: ModuleType, path: Path) -> Iterator[BuildLog]:
    """Open the log file and make the logger that writes to it."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self, log: BuildLog) -> None:
            trt.ILogger.__init__(self)
            self._write = log.write

        def log(self, severity: object, message: str) -> None:
            self._write(str(severity).rpartition(".")[2], message)

    with path.open("w", encoding="utf-8", errors="replace") as file:
        log = BuildLog(file)
        log.logger = Logger(log)
        yield log
