"""build: the parent of a build: starts the child process, watches it, says what failed."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import StageFailed
from stages.export.engine.request import REPORT, REQUEST, BuildRequest, Finished, Report, Step

CHILD = (sys.executable, "-m", "stages.export.engine.build_child")
TIMEOUT_S = 1800.0
_POLL_S = 0.1
_LAST_BREATH_S = 5.0
_LAST_LINES = 8
_ROOT = Path(__file__).parents[3]


class BuildFailed(StageFailed):
    """TensorRT made no engine of a graph, or not the engine that was asked for."""


def run_build(
    request: BuildRequest,
    ctx: Context,
    *,
    timeout_s: float = TIMEOUT_S,
    command: Sequence[str] = CHILD,
) -> Finished:
    """Build an engine in a child process, with a progress bar, and return what the child reports.

    Raises:
        BuildFailed: TensorRT refused the graph, the process crashed, or time ran out.
        Interrupted: a stop was asked for; the child is dead and left no engine.
    """
    request_path = request.log.with_suffix(".request.json")
    request_path.write_bytes(REQUEST.dump_json(request))
    error_path = request.log.with_suffix(".stderr")
    deadline = time.monotonic() + timeout_s
    last = Step(percent=0, phase="starting")
    with (
        error_path.open("wb") as errors,
        _spawned([*command, str(request_path)], errors, ctx.device) as child,
        ctx.events.progress(f"build {request.onnx.stem}", total=100, unit="%") as bar,
    ):
        for report in _reports(child):
            ctx.stop.check()
            if time.monotonic() > deadline:
                raise _failure(
                    request,
                    f"the build did not end within {timeout_s:g} s; it was at {last.percent} % in "
                    f"phase {last.phase!r}. Raise "
                    "stages.export.build_timeout_s or narrow stages.export.batch",
                )
            if isinstance(report, Step):
                bar.advance(report.percent - last.percent, note=report.phase)
                last = report
            elif isinstance(report, Finished):
                bar.advance(100 - last.percent)
                request_path.unlink()
                error_path.unlink()
                return report
            elif report is not None:
                raise _failure(request, report.message)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_LAST_BREATH_S)
        code = child.poll()
    raise _failure(
        request, f"the build process {_ending(code)} in phase {last.phase!r}", error_path
    )


@contextmanager
def _spawned(
    command: Sequence[str], errors: IO[bytes], device: Device
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the child in a process group of its own, and leave nothing of it behind."""
    child = subprocess.Popen(
        command,
        # never written to: the child ends itself when this end closes, that is, when we die
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=child_environment(os.environ, device),
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()


def child_environment(base: Mapping[str, str], device: Device) -> dict[str, str]:
    """Let the child find this package, and see no GPU but the one that is meant."""
    path = os.pathsep.join(part for part in (str(_ROOT), base.get("PYTHONPATH", "")) if part)
    environment = {**base, "PYTHONPATH": path}
    if device.is_cuda:
        visible = base.get("CUDA_VISIBLE_DEVICES", "").split(",")
        known = device.index < len(visible) and visible[device.index]
        environment["CUDA_VISIBLE_DEVICES"] = known or str(device.index)
    return environment


def _reports(child: subprocess.Popen[bytes]) -> Iterator[Report | None]:
    """Yield the child's reports as they come, and None whenever there is none for a while."""
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_POLL_S)
        except queue.Empty:
            yield None
            continue
        if not line:
            return
        yield REPORT.validate_json(line)


def _pump(stdout: IO[bytes], lines: queue.Queue[bytes]) -> None:
    """Move lines from a pipe to a queue; the empty line says that the pipe is closed."""
    for line in stdout:
        lines.put(line)
    lines.put(b"")


def _ending(code: int | None) -> str:
    """Say how a process ended."""
    if code is None:
        return "closed its output and did not end"
    if code == -signal.SIGKILL:
        return "was killed by signal SIGKILL, as processes are that exhaust the memory,"
    if code >= 0:
        return f"ended with exit code {code} and without a result"
    return f"was killed by signal {signal.Signals(-code).name}"


def _failure(request: BuildRequest, reason: str, error_path: Path | None = None) -> BuildFailed:
    """Make the error: what could not be built, why, and where to read on."""
    lines = [f"export: {request.api} could not build an engine of {request.onnx.name}: {reason}"]
    tail = [*_tail(error_path), *_tail(request.log)] if error_path else []
    if tail:
        lines += ["Last lines of its log:", *(f"    {line}" for line in tail)]
    if request.log.exists():
        # Not its full path: the stage's folder moves when the stage is done.
        lines.append(f"The whole log: {request.log.parent.name}/{request.log.name}")
    return BuildFailed("\n".join(lines))


def _tail(path: Path) -> list[str]:
    """Return the last lines of a file that may not be there."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip()[:300] for line in deque(file, maxlen=_LAST_LINES)]
