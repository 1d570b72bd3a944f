"""TimedStage: a stage of `torch.distributed.pipelining` that notes when it worked on what."""

from __future__ import annotations

import time

import torch
from torch.distributed.pipelining import PipelineStage

from stages.train.gpipe.orders import Kind, Work
from stages.train.gpipe.timeline import Span

Stamp = float | torch.cuda.Event
"""A moment: on a CPU of its clock; on a GPU an event in its stream, which nobody waits for."""


class TimedStage(PipelineStage):
    """One stage, with the moments of its last step."""

    _began: Stamp = 0.0
    _notes: tuple[tuple[Work, Stamp, Stamp], ...] = ()

    def begin(self) -> None:
        """Begin a step."""
        self._began, self._notes = self._stamp(), ()

    def spans(self) -> list[Span]:
        """Return when this stage worked, since the step began; waits for the device."""
        return [
            Span(self.stage_index, work, _seconds(self._began, start), _seconds(self._began, end))
            for work, start, end in self._notes
        ]

    def forward_one_chunk(self, fwd_chunk_id: int, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Run one micro-batch forward."""
        start = self._stamp()
        result = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        self._note("forward", fwd_chunk_id, start)
        return result

    def backward_one_chunk(self, bwd_chunk_id: int, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Run one micro-batch back."""
        start = self._stamp()
        result = super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        self._note("backward", bwd_chunk_id, start)
        return result

    def _note(self, kind: Kind, micro_batch: int, start: Stamp) -> None:
        self._notes += ((Work(kind, micro_batch), start, self._stamp()),)

    def _stamp(self) -> Stamp:
        if torch.device(self.device).type != "cuda":
            return time.perf_counter()
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _seconds(start: Stamp, end: Stamp) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    assert isinstance(start, torch.cuda.Event)
    assert isinstance(end, torch.cuda.Event)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
