"""Chapter: what the report says about a pipeline: plan, measured step, bubble, speed, memory."""

from __future__ import annotations

from pipeline.report.blocks import Block, Cell, Facts, Gantt, GanttSpan, Note, Table
from stages.train.gpipe.comparison import ActivationPeaks
from stages.train.gpipe.pipeline_plan import PipelinePlan, StagePlan
from stages.train.gpipe.timeline import Timeline

MIB = 2**20
_KINDS = ("forward", "backward", "weights")
_RECOMPUTE = {
    "never": "nothing",
    "except_last": "every micro-batch but the last",
    "always": "every micro-batch",
    "blocks": "every micro-batch, block by block",
}


def pipeline_blocks(
    plan: PipelinePlan, timeline: Timeline, memory: ActivationPeaks | None = None
) -> tuple[Block, ...]:
    """Return the part of the train chapter that a pipelined run adds.

    Args:
        plan: what was planned.
        timeline: one measured step.
        memory: peaks with and without the means of the pipeline; None leaves the table out.
    """
    blocks: list[Block] = [_facts(plan, timeline), _stages(plan, timeline), _gantt(plan, timeline)]
    if memory is not None:
        blocks.append(_memory(plan, memory))
    if plan.reasons:
        blocks.append(Note(text=f"Why this plan. {'; '.join(plan.reasons)}."))
    return tuple(blocks)


def _facts(plan: PipelinePlan, timeline: Timeline) -> Facts:
    stages, m = len(plan.stages), plan.micro_batches
    step_s = timeline.makespan_s
    uneven = " at most" if len(set(plan.sizes)) > 1 else ""
    items: list[tuple[str, Cell]] = [
        ("Stages", stages),
        ("Micro-batches", f"{m} of {plan.sizes[0]} samples{uneven}"),
        ("Schedule", plan.schedule),
        ("Computed again", _RECOMPUTE[plan.recompute]),
        ("Bubble, measured", f"{timeline.bubble:.1%}"),
        ("(K-1)/(M+K-1)", f"{timeline.ideal_bubble:.1%}"),
        ("Step, measured", f"{1e3 * step_s:.1f} ms"),
        ("Step, predicted", f"{1e3 * plan.step_s:.1f} ms"),
        (f"Speedup at M = {m}", f"{plan.plain_s / step_s:.2f}"),
        ("Speedup over the best plain run", f"{plan.best_plain_s / step_s:.2f}"),
        ("Imbalance", f"{plan.imbalance:.3f}"),
    ]  # fmt: skip
    return Facts(title=f"Pipeline of {stages} stages", items=tuple(items))


def _stages(plan: PipelinePlan, timeline: Timeline) -> Table:
    rows = tuple(
        (
            f"stage {k}",
            layers(stage),
            stage.parameters,
            stage.forward_ms,
            stage.backward_ms,
            stage.activation_bytes / MIB,
            stage.memory_bytes / MIB,
            f"{timeline.busy_s(k) / timeline.makespan_s:.0%}",
        )
        for k, stage in enumerate(plan.stages)
    )
    return Table(
        title="Stages",
        columns=(
            "", "layers", "parameters", "forward (ms)", "backward (ms)", "activations (MiB)",
            "memory (MiB)", "busy",
        ),
        rows=rows,
        caption="Times are those of one micro-batch as profiled before the run, with what is "
        "computed again. Activations are the planned peak; memory adds weights, gradients, "
        "optimizer states and average. Busy is measured. The dearest stage takes "
        f"{plan.imbalance:.3f} times the mean.",
    )  # fmt: skip


def layers(stage: StagePlan) -> str:
    """Return the names of a stage's blocks, the inner ones left out."""
    first, last = stage.layers[0], stage.layers[-1]
    return first if len(stage.layers) == 1 else f"{first} to {last} ({len(stage.layers)} blocks)"


def _gantt(plan: PipelinePlan, timeline: Timeline) -> Gantt:
    begin = min((span.start_s for span in timeline.spans), default=0.0)
    done = {span.work.kind for span in timeline.spans}
    kinds = tuple(kind for kind in _KINDS if kind in done)
    return Gantt(
        title="One measured step",
        x_label="ms",
        rows=tuple(f"stage {k}" for k in range(timeline.stages)),
        kinds=kinds,
        spans=tuple(
            GanttSpan(
                row=span.stage,
                kind=kinds.index(span.work.kind),
                start=1e3 * (span.start_s - begin),
                end=1e3 * (span.end_s - begin),
                label=str(span.work.micro_batch),
            )
            for span in sorted(timeline.spans, key=lambda s: s.start_s)
        ),
        caption=f"The numbers are those of the micro-batches. Stages waited {timeline.bubble:.1%} "
        f"of the time; equal stages and free transfers would wait {timeline.ideal_bubble:.1%}"
        f"{' in gpipe' if plan.schedule == 'zero_bubble' else ''}. "
        f"The speedups compare with plain steps of the profile, one device: "
        f"{1e3 * plan.plain_s:.1f} ms at as many micro-batches, {1e3 * plan.best_plain_s:.1f} ms "
        "at the best number.",
    )


def _memory(plan: PipelinePlan, memory: ActivationPeaks) -> Table:
    named = (
        ("one device, whole batch", memory.naive, False),
        ("pipeline, nothing computed again", memory.micro_batched, plan.recompute == "never"),
        ("pipeline, stages computed again", memory.recomputed, plan.recompute == "always"),
        ("pipeline, block by block", memory.by_block, plan.recompute == "blocks"),
    )
    return Table(
        title="Peak activations of the fullest device",
        columns=("", "MiB", "times smaller"),
        rows=tuple((name, peak / MIB, memory.naive / max(peak, 1)) for name, peak, _ in named),
        highlight=tuple(i for i, (_, _, chosen) in enumerate(named) if chosen),
        caption="Activations and temporaries without weights and gradients, planned to the byte "
        f"on fake tensors for {plan.micro_batches} micro-batches of {plan.sizes[0]}.",
    )
