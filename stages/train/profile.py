"""Profile: a trace of a few steps, and the operators that take most of their time.

    profiler = Profiler(folder, steps=5, device=device, events=events)
    profiler.step()             # after each training step; records once the warm-up is over

Leaves ``trace.json``, for ui.perfetto.dev or chrome://tracing, and ``operators.json``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from pipeline.device import Device
from pipeline.events import EventLog
from pipeline.files import write_atomic

FOLDER = "profile"
TRACE, OPERATORS = "trace.json", "operators.json"
WARM_UP = 3
"""Steps before the first that is recorded: they fill caches and choose kernels."""
_LISTED = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """What one kind of operator took of an average step."""

    name: str
    calls: float
    self_ms: float
    """Without the operators that it calls; of the GPU where there is one."""
    share: float
    """Of all that was recorded."""


@dataclass
class Profiler:
    """Records some steps, once."""

    folder: Path
    steps: int
    device: Device
    events: EventLog
    _seen: int = 0
    _recording: profile | None = field(default=None, init=False)

    def step(self) -> None:
        """Note that a step is over: start to record, stop, or do nothing."""
        self._seen += 1
        if self._seen == WARM_UP and not (self.folder / OPERATORS).exists():
            activities = [ProfilerActivity.CPU]
            if self.device.is_cuda:
                activities.append(ProfilerActivity.CUDA)
            self._recording = profile(activities=activities)
            self._recording.start()
        elif self._recording is not None and self._seen == WARM_UP + self.steps:
            self._file(self._stop())

    def close(self) -> None:
        """Stop without a result, when training ends before enough steps were recorded."""
        if self._recording is not None:
            self._stop()
            self.events.warning(
                f"train.profile: training ended after {self._seen} steps, before {WARM_UP} of "
                f"warm-up and {self.steps} to record; there is no trace. Record fewer."
            )

    def _stop(self) -> profile:
        recording = self._recording
        assert recording is not None
        recording.stop()
        self._recording = None
        return recording

    def _file(self, recording: profile) -> None:
        self.folder.mkdir(exist_ok=True)
        trace = self.folder / TRACE
        recording.export_chrome_trace(str(trace))
        found = [asdict(one) for one in _operators(recording, self.steps, self.device)]
        write_atomic(self.folder / OPERATORS, json.dumps(found, indent=1))
        self.events.info(f"trace of {self.steps} steps: {trace} (open it in ui.perfetto.dev)")


def read_operators(folder: Path) -> list[Operator]:
    """Return what a profiler has left in a folder; nothing if there was none."""
    path = folder / OPERATORS
    return [Operator(**one) for one in json.loads(path.read_text())] if path.exists() else []


def _operators(recording: profile, steps: int, device: Device) -> list[Operator]:
    def self_us(event: Any) -> float:
        return float(event.self_device_time_total if device.is_cuda else event.self_cpu_time_total)

    events = sorted(recording.key_averages(), key=self_us, reverse=True)
    total = sum(map(self_us, events)) or 1.0
    return [
        Operator(
            name=event.key,
            calls=event.count / steps,
            self_ms=self_us(event) / steps / 1e3,
            share=self_us(event) / total,
        )
        for event in events[:_LISTED]
    ]
