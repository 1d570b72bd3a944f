"""Forecast: what 1 to 64 devices of some memory can do with a network, before any of them is there.

Two tables: this network on K devices (does it fit, the best M, the predicted step), and the deepest
network of its family that K devices hold. Each device computes as fast as the one that was timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
from pydantic import ByteSize

from pipeline.report.blocks import Block, Cell, Note, Table
from stages.train.gpipe.chain import Chain
from stages.train.gpipe.depth import Depths
from stages.train.gpipe.draft import Drafts, Link, gib, powers
from stages.train.gpipe.family import Family, find_family
from stages.train.gpipe.memory import Autocast, Loss, MemoryMeter, Recompute, any_loss
from stages.train.gpipe.orders import defers_weights
from stages.train.gpipe.planner import profile_sizes
from stages.train.gpipe.profile import Profile, profile_chain
from stages.train.gpipe.weights import ParameterBytes
from stages.train.parallel_config import ParallelConfig

MOST_DEVICES = 64
_MODES: tuple[Recompute, ...] = ("never", "always", "blocks")


def _modes(drafts: Drafts) -> tuple[Recompute, ...]:
    """Return the ways of keeping activations that go with the schedule."""
    return ("never",) if drafts.config.defers_weights else _MODES


def forecast(
    config: ParallelConfig,
    chain: Chain,
    images: torch.Tensor,
    *,
    devices: int,
    memory: int,
    weights: ParameterBytes,
    loss: Loss = any_loss,
    autocast: Autocast = nullcontext,
    profile: Profile | None = None,
    link: Link | None = None,
) -> tuple[Block, ...]:
    """Return the tables.

    Args:
        config: what the YAML says; `pipeline`, `micro_batches`, `cuts` and `memory` in it are
            not used.
        chain: the whole network, in training mode.
        images: one mini-batch.
        devices: up to how many this network is laid over.
        memory: bytes of each.
        weights: bytes that each parameter costs.
        loss: from the last block's output to a scalar.
        autocast: the context of a forward pass.
        profile: seconds of the blocks; measured here if left out.
        link: between devices.
    """
    asked = config.model_copy(
        update={"pipeline": "auto", "micro_batches": "auto", "cuts": None,
                "memory": ByteSize(memory)}
    )  # fmt: skip
    batch = len(images)
    drafts = Drafts(
        config=asked,
        meter=MemoryMeter(
            chain, images, loss=loss, autocast=autocast, defers_weights=config.defers_weights
        ),
        profile=profile
        or profile_chain(
            chain, images, profile_sizes(asked, batch), loss=loss, autocast=autocast,
            defers_weights=config.defers_weights,
        ),
        batch=batch,
        weights=weights,
        link=link or Link(),
        cores=None,
        cuts=None,
    )  # fmt: skip
    counts = powers(max(devices, 1))
    counts = counts if counts[-1] == devices else [*counts, devices]
    tables: list[Block] = [_this_network(drafts, counts)]
    family = find_family(drafts.budget)
    if family is None:
        text = "No block of this network repeats, so there is no deeper one of its kind to size."
        return (*tables, Note(text=text, level="warning"))
    return (*tables, _largest(drafts, family, memory))


def _this_network(drafts: Drafts, counts: Sequence[int]) -> Table:
    config, batch = drafts.config, drafts.batch
    assert config.memory is not None
    plain_s = min(drafts.profile.step_s(batch, m) for m in powers(batch))
    tried = dict.fromkeys((config.recompute_mode, *_modes(drafts)))
    modes = [drafts.changed(recompute=mode) for mode in tried]
    blocks = drafts.budget.blocks
    return Table(
        title=f"This network on devices of {gib(config.memory)}",
        columns=("devices", "fits", "recompute", "fullest", "M", "step (ms)", "bubble", "speedup"),
        rows=tuple(_row(modes, count, plain_s) for count in counts),
        caption=f"{sum(b.parameters for b in blocks):,} parameters in {len(blocks)} blocks, "
        f"mini-batches of {batch} in M micro-batches, {config.schedule}; recompute is the first of "
        f"{', '.join(tried)} that fits. Steps are simulated from blocks timed on this machine, a "
        "device for each stage; the speedup is over the best plain step of one device without "
        f"limits of memory ({1e3 * plain_s:.1f} ms).",
    )


def _row(modes: Sequence[Drafts], count: int, plain_s: float) -> tuple[Cell, ...]:
    drafts = modes[0]
    most = min(len(drafts.meter.chain), drafts.batch)
    if count > most:
        return (count, f"no: {most} stages at most", *[None] * 6)
    fitting = next((one for one in modes if one.of(count)), None)
    if fitting is None:
        least = min(one.least(count, one.config.recompute_mode).bytes for one in modes)
        return (count, f"no: needs {gib(least, up=True)}", *[None] * 6)
    best, recompute = fitting.of(count)[0], fitting.config.recompute_mode
    size, alive = fitting.size(best.micro_batches), fitting.alive(count, best.micro_batches)
    fullest = max(
        fitting.budget.tally(start, stop, size).total(
            recompute, alive[k], defers_weights(fitting.schedule, k)
        )
        for k, (start, stop) in enumerate(pairwise(best.bounds))
    )
    return (
        count, "yes", recompute, gib(fullest), best.micro_batches, 1e3 * best.step_s,
        f"{best.timeline.bubble:.1%}", plain_s / best.step_s,
    )  # fmt: skip


def _largest(drafts: Drafts, family: Family, memory: int) -> Table:
    modes = _modes(drafts)
    depths = Depths(family, memory, batch=drafts.batch, schedule=drafts.schedule)
    naive = depths.most(stages=1, micro_batches=1, recompute="never")
    rows: list[tuple[Cell, ...]] = []
    for count in powers(MOST_DEVICES):
        tried = sorted({m for m in (*powers(drafts.batch, count), drafts.batch) if m >= count})
        found = [_deepest(depths, count, tried, mode) for mode in modes]
        most = max((one for one in found if one), default=None)
        times = None
        if naive and most:
            times = family.parameters(most[0]) / family.parameters(naive)
        in_millions = [family.parameters(one[0]) / 1e6 if one else None for one in found]
        rows.append((count, *in_millions, *(most or (None, None)), times))
    alone = f"{family.parameters(naive) / 1e6:,.1f} M" if naive else "nothing"
    return Table(
        title=f"Largest network of this family on devices of {gib(memory)}",
        columns=(
            "devices", *(f"{mode} (M)" for mode in modes), "repeats", "micro-batches", "x naive",
        ),
        rows=tuple(rows),
        caption="Parameters in millions by what is computed again; repeats and micro-batches are "
        "those of the largest. "
        f"Naive is one device with the whole mini-batch at once: {alone}. Scaled: the number of "
        f"repeats of {family}. Mini-batches of {drafts.batch}, {drafts.schedule}, "
        f"{drafts.weights.total:g} bytes a parameter beside activations. Bytes are added up from "
        "blocks measured on fake tensors; what an allocator loses is not in it. A dash: fewer "
        "samples than stages, or not one block fits.",
    )  # fmt: skip


def _deepest(
    depths: Depths, stages: int, tried: Sequence[int], recompute: Recompute
) -> tuple[int, int] | None:
    """Return the most repeats, and with how few micro-batches of those tried."""
    found = [
        (repeats, -m)
        for m in tried
        if (repeats := depths.most(stages=stages, micro_batches=m, recompute=recompute))
    ]
    if not found:
        return None
    repeats, fewest = max(found)
    return repeats, -fewest
