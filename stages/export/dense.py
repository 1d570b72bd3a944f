"""Dense: the network that fast layers were converted from is exported beside theirs, as a rival.

Fast layers are kept only where they are faster: a variant with them is accepted if it is faster
than the dense one of the same backend and precision, at each batch size that is measured, so long
as that one is accurate enough. Of all that are accepted the fastest is served, whichever it is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.artifacts import Variant
from pipeline.backend import Backend
from stages.export.config import ExportConfig
from stages.export.forge import Forge


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


def judge_races(variants: Sequence[Variant], config: ExportConfig) -> tuple[Variant, ...]:
    """Return variants that were judged, those with fast layers rejected where these do not pay."""
    lost = {race.fast.name: race.told(config) for race in races(variants) if not race.is_won}
    return tuple(
        replace(
            variant,
            accepted=False,
            note="; ".join(filter(None, [f"is {lost[variant.name]}", variant.note])),
        )
        if variant.name in lost
        else variant
        for variant in variants
    )


def outcome(variants: Sequence[Variant], chosen: Variant, config: ExportConfig) -> str:
    """Say which network is kept and why; an empty string: there is only one."""
    rivals = [variant for variant in variants if variant.dense]
    if not rivals:
        return ""
    kept = "the dense network" if chosen.dense else "the network with fast layers"
    reasons = [f"{race.fast.name} is {race.told(config)}" for race in races(variants)]
    reasons += [
        f"{rival.name} was passed over ({rival.note or 'it could not be measured'})"
        for rival in rivals
        if not rival.accepted
    ]
    return f"{chosen.name} is served, {kept}: {'; '.join(reasons)}."
