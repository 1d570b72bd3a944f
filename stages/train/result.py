"""Result: what training leaves: weights, predictions, gates, hops, metrics, chapter."""

from __future__ import annotations

import resource
from dataclasses import replace

import torch

from pipeline.artifacts import DataSpec, Gate, Hop, TrainedModel
from pipeline.device import Device
from stages.train.amp_check import AmpCheck
from stages.train.chapter import Outcome, write_chapter
from stages.train.checkpoint import Tensors, save_weights
from stages.train.efficiency import Efficiency, flops_per_image, measured_peak
from stages.train.evaluate import Evaluation
from stages.train.fff.usage import usage_blocks, watched_leaves
from stages.train.finetune import note_of
from stages.train.loop import Loop
from stages.train.precision import FP32
from stages.train.stall import quantile_s


def finish(draft: TrainedModel, loop: Loop, check: AmpCheck | None) -> TrainedModel:
    """Measure the chosen weights in fp32 and in the training precision, and file everything."""
    learner, ctx, position = loop.learner, loop.ctx, loop.position
    weights, source = choose_weights(loop)
    learner.module.load_state_dict(weights)
    with watched_leaves(learner.module) as usage:
        reference = loop.measure(learner.module, FP32, "eval fp32")
        loop.told = (*loop.told, *usage_blocks(usage.layers()))
    hops = [_hop("fp32", reference)]
    if learner.precision.name != "fp32":
        amp = loop.measure(learner.module, learner.precision, f"eval {learner.precision.name}")
        hops.append(_hop(learner.precision.name, amp))

    weights = learner.layout.whole(weights)
    predictions = ctx.dir / "predictions.npz"
    metrics = {
        "top1": reference.top1,
        "loss": reference.loss,
        "epochs": float(position.epoch),
        "steps": float(learner.num_steps),
        "images_per_s": position.images / max(position.train_s, 1e-9),
        "train_s": position.train_s,
        "input_stall": position.input_stall,
        "stalled_steps": position.stalled_share,
        "input_wait_p50_ms": quantile_s(position.waits, 0.5) * 1e3,
        "input_wait_p99_ms": quantile_s(position.waits, 0.99) * 1e3,
        "peak_memory_mb": peak_memory_mb(ctx.device),
        "parameters": float(sum(p.numel() for p in learner.module.parameters())),
    }
    efficiency = measure_efficiency(loop)
    if efficiency is not None:
        metrics["flops_per_image"] = efficiency.flops_per_image
        metrics["peak_flops"] = efficiency.peak_flops
        metrics["mfu"] = efficiency.mfu
    if check is not None:
        metrics["amp_difference"] = check.difference
    trained = replace(
        draft,
        predictions=predictions,
        metrics=metrics,
        gates=gates(loop, reference, weights),
        hops=tuple(hops),
    )
    if learner.layout.is_first:
        save_weights(weights, draft.weights, note_of(draft, ctx.get(DataSpec)).as_metadata())
        reference.save(predictions)
        outcome = Outcome(
            trained=trained,
            reference=reference,
            source=source,
            check=check,
            efficiency=efficiency,
        )
        write_chapter(loop, outcome)
    return trained


def measure_efficiency(loop: Loop) -> Efficiency | None:
    """Return how well one device's arithmetic units were used; None where that is not known."""
    if loop.config.parallel.is_pipelined:
        return None  # a device computes a part of the network
    learner, position, spec = loop.learner, loop.position, loop.ctx.get(DataSpec)
    if spec.tokens is not None:
        return None  # a text takes as much as it is long
    flops = flops_per_image(learner.module, (spec.height, spec.width, spec.channels))
    if flops is None:
        return None
    per_device = position.images / max(position.train_s, 1e-9) / learner.layout.shard[1]
    peak = measured_peak(learner.precision, learner.device)
    return Efficiency(flops_per_image=flops, peak_flops=peak, images_per_s=per_device)


def choose_weights(loop: Loop) -> tuple[Tensors, str]:
    """Return the weights that the configuration asks for, and where they come from."""
    learner = loop.learner
    if loop.best:
        return loop.best, loop.position.best_name
    if loop.config.weights == "ema" and learner.ema is not None:
        return dict(learner.ema.module.state_dict()), f"EMA at step {learner.num_steps}"
    return dict(learner.module.state_dict()), f"step {learner.num_steps}"


def gates(loop: Loop, reference: Evaluation, weights: Tensors) -> tuple[Gate, ...]:
    """Judge the result: everything finite, and the target reached if there is one."""
    broken = sum(int((~t.isfinite()).sum()) for t in weights.values() if t.is_floating_point())
    broken += int((~reference.logits.isfinite()).sum())
    finite = Gate(
        name="finite",
        passed=broken == 0,
        value=float(broken),
        limit=0.0,
        unit="values",
        message=f"{broken} weights or logits are NaN or infinite."
        + (" Lower optimizer.lr or set grad_clip." if broken else ""),
    )
    target = loop.config.target
    if target is None:
        return (finite,)
    reached = reference.top1 >= target.top1
    advice = f" Training ended by {loop.position.finished}; raise it, or change the recipe."
    return (
        Gate(
            name="target top1",
            passed=reached,
            value=reference.top1,
            limit=target.top1,
            message=f"fp32 top-1 {reference.top1:.2%} on {len(reference.targets)} samples, "
            f"target {target.top1:.2%}." + ("" if reached else advice),
        ),
        finite,
    )


def peak_memory_mb(device: Device) -> float:
    """Return the most memory held at once: of the device on CUDA, of the process on a CPU."""
    if device.is_cuda:
        return torch.cuda.max_memory_allocated(device.index) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB


def _hop(name: str, evaluation: Evaluation) -> Hop:
    return Hop(name=name, top1=evaluation.top1, samples=len(evaluation.targets))
