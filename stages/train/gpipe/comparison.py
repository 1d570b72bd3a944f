"""Comparison: the activations of a plan beside those of training that does without its means."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from stages.train.gpipe.memory import MemoryMeter, Recompute
from stages.train.gpipe.orders import most_alive
from stages.train.gpipe.pipeline_plan import PipelinePlan


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationPeaks:
    """Peak bytes of activations and temporaries on the fullest device."""

    naive: int
    """One device, the whole mini-batch at once."""
    micro_batched: int
    """This pipeline, nothing computed again."""
    recomputed: int
    """This pipeline, stages computed again."""
    by_block: int
    """This pipeline, computed again block by block."""


def compare_activations(plan: PipelinePlan, meter: MemoryMeter) -> ActivationPeaks:
    """Measure the same partition under each way of keeping activations."""
    stages = len(plan.stages)

    def fullest(recompute: Recompute) -> int:
        peaks = []
        for stage, (start, stop) in enumerate(pairwise(plan.bounds)):
            # What is computed again cannot be split, and would go as 1F1B.
            splits = plan.schedule == "zero_bubble" and recompute != "never"
            schedule = "1f1b" if splits else plan.schedule
            alive = most_alive(schedule, stage, stages, plan.micro_batches)
            alive = alive if stages > 1 else 1
            peaks.append(meter.activations(start, stop, plan.sizes[0], recompute, alive))
        return max(peaks)

    return ActivationPeaks(
        naive=meter.stage(0, plan.bounds[-1], plan.batch).peak,
        micro_batched=fullest("never"),
        recomputed=fullest("always"),
        by_block=fullest("blocks"),
    )
