"""Dense: the network that fast layers were converted from is exported beside theirs, as a rival.

Fast layers are kept only where they are faster: a variant with them is accepted if it is faster
than the dense one of the same backend and precision, at each batch size that is measured, so long
as that one is about as accurate as the trained network. Of all that are accepted the fastest is
served, whichever network it is of. What a precision costs is told against the same network in FP32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.artifacts import Variant
from pipeline.backend import Backend
from stages.export.config import ExportConfig
from stages.export.forge import Forge
from stages.export.verdict import rejected


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """A variant with fast layers, and its dense rival."""

    fast: Variant
    dense: Variant
    single: float
    """How many times as fast the first is, at the smallest batch."""
    many: float
    """At the opt batch."""

    @property
    def is_won(self) -> bool:
        """Whether the fast layers are faster, and not just as fast."""
        return min(self.single, self.many) > 1

    def told(self, config: ExportConfig) -> str:
        """Return the figures in words."""
        batch = config.batch
        return (
            f"{self.single:.2f} times as fast as {self.dense.name} at batch {batch.min}, "
            f"{self.many:.2f} at batch {batch.opt}"
        )


def dense_forge(forge: Forge) -> Forge | None:
    """Return where graphs of the dense network are made; None: the trained one has no such twin."""
    dense = forge.trained.dense
    if dense is None:
        return None
    trained = replace(forge.trained, module=dense.module, weights=dense.weights, dense=None)
    return Forge(
        config=forge.config,
        spec=forge.spec,
        trained=trained,
        images=forge.images,
        ctx=forge.ctx,
        compare_in=forge.compare_in,
        dense=True,
    )


def backends_here(variants: Sequence[Variant], backends: Sequence[Backend]) -> list[Backend]:
    """Return those that some variant runs with here: a rival that cannot be timed is none."""
    running = {variant.backend for variant in variants if variant.runs_here}
    return [backend for backend in backends if backend.name in running]


def races(variants: Sequence[Variant]) -> list[Race]:
    """Pair variants with their rivals, where both were measured and the rival is accepted."""
    rivals = {(v.backend, v.precision): v for v in variants if v.dense and v.accepted}
    found = []
    for variant in variants:
        rival = rivals.get((variant.backend, variant.precision))
        if variant.dense or rival is None:
            continue
        if variant.p50_ms and rival.p50_ms and variant.images_per_s and rival.images_per_s:
            single = rival.p50_ms / variant.p50_ms
            many = variant.images_per_s / rival.images_per_s
            found.append(Race(fast=variant, dense=rival, single=single, many=many))
    return found


def judge_networks(
    variants: Sequence[Variant], top1: float | None, config: ExportConfig
) -> tuple[Variant, ...]:
    """Return variants that were judged, each now held against the other network too.

    Args:
        variants: of both networks; dense ones that are less accurate than the trained network are
            rejected, and those with fast layers that lose a race.
        top1: of the trained network in FP32; None: not known.
        config: how much accuracy may be lost.
    """
    judged = [_exact_enough(each, top1, config) if each.dense else each for each in variants]
    lost = {race.fast.name: race.told(config) for race in races(judged) if not race.is_won}
    return tuple(rejected(v, f"is {lost[v.name]}") if v.name in lost else v for v in judged)


def _exact_enough(variant: Variant, top1: float | None, config: ExportConfig) -> Variant:
    if top1 is None or variant.top1 is None:
        return variant
    lost = 100 * (top1 - variant.top1)
    if lost <= config.max_drop:
        return variant
    allowed = f"{config.max_drop:g} are allowed"
    return rejected(variant, f"is {lost:.2f} points below the trained network, {allowed}")


def outcome(variants: Sequence[Variant], chosen: Variant, config: ExportConfig) -> str:
    """Say which network is kept and why; an empty string: there is only one."""
    rivals = [variant for variant in variants if variant.dense]
    if not rivals:
        return ""
    kept = "the dense network" if chosen.dense else "the network with fast layers"
    reasons = [f"{race.fast.name} is {race.told(config)}" for race in races(variants)]
    reasons += [
        f"{rival.name} {rival.note.partition('; ')[0]}" for rival in rivals if not rival.accepted
    ]
    return f"{chosen.name} is served, {kept}: {'; '.join(reasons)}."
