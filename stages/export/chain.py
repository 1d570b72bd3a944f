"""Chain: trained model -> graphs -> built variants -> measured variants -> verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.artifacts import DataSpec, ExportedModel, TrainedModel, Variant
from pipeline.backend import Backend
from pipeline.context import Context
from pipeline.errors import StageFailed
from stages.export import parity
from stages.export.building import build_all, implementation, profile_of, sessions
from stages.export.config import ExportConfig
from stages.export.dense import backends_here, dense_forge, judge_networks, outcome
from stages.export.forge import Forge
from stages.export.latency import Latency, measure_latency
from stages.export.measure import (
    Predictions,
    ask,
    load_predictions,
    predict,
    same_samples,
    save_predictions,
)
from stages.export.samples import at_least, calibration_images
from stages.export.section import describe
from stages.export.verdict import choose, gates, hops, judge

_REHEARSAL_IMAGES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was found out about one variant here."""

    predictions: Predictions
    latency: Latency


def export(config: ExportConfig, backends: Sequence[Backend], ctx: Context) -> ExportedModel:
    """Export, build, measure and judge every precision for every backend."""
    trained = ctx.get(TrainedModel)
    forge = open_forge(config, backends, ctx, config.calibration.samples)
    variants = build_all(forge, backends, config, ctx)
    dense = dense_forge(forge)
    if dense is not None:
        ctx.events.info(
            "the dense network is exported too: fast layers are kept if they are faster"
        )
        variants += build_all(dense, backends_here(variants, backends), config, ctx)
    measured = measure_all(variants, backends, forge, ctx)
    reference = reference_predictions(trained, measured)
    references = {False: reference, True: _in_fp32(measured, variants) or reference}
    filled = [fill(v, measured.get(v.name), references[v.dense], ctx) for v in variants]
    sick = {name: found.predictions.num_sick for name, found in measured.items()}
    top1 = reference.top1 if reference is not None else None
    judged = judge_networks(judge(filled, config, sick), top1, config)
    for variant in judged:
        announce(variant, ctx)
    chosen = choose(judged, config)
    ctx.events.info(f"chosen: {outcome(judged, chosen, config) or chosen.name}")
    if not chosen.accepted:
        ctx.events.warning(f"choose: {chosen.name} is not accepted: {chosen.note}")
    samples = len(reference.targets) if reference is not None else 0
    served = dense if dense is not None and chosen.dense else forge
    kept = [variant for variant in judged if variant.dense == chosen.dense]
    exported = ExportedModel(
        variants=judged,
        chosen=chosen.name,
        classes=trained.classes,
        calibration=served.table if served.ranges is not None else None,
        gates=gates(kept, config, sick),
        hops=hops(kept, samples),
    )
    ctx.write_section(
        describe(
            exported, config, served.ranges, served.facts, forge.forms, ctx.device, forge.spec.noun
        )
    )
    return exported


def rehearse(config: ExportConfig, backends: Sequence[Backend], ctx: Context) -> ExportedModel:
    """Build everything from an untrained model and ask it a few questions; nothing is measured.

    Raises:
        StageFailed: what would have failed hours later, by operator or step.
    """
    quick = config.calibration.model_copy(update={"method": "minmax"})
    forge = open_forge(
        config.model_copy(update={"calibration": quick}), backends, ctx, _REHEARSAL_IMAGES
    )
    variants = build_all(forge, backends, config, ctx)
    failed = [variant for variant in variants if not variant.size_bytes]
    if failed:
        raise StageFailed(f"export of the untrained model: {failed[0].name}: {failed[0].note}")
    runnable = [variant for variant in variants if variant.runs_here]
    with sessions(runnable, backends, config, ctx) as opened:
        for session in opened.values():
            for batch in parity.PARITY_BATCHES:
                ctx.stop.check()
                ask(session, at_least(forge.images, batch), config.batch.min)
    if not runnable:
        raise StageFailed(
            "export: nothing that was built can run here. Add onnxruntime to backend."
        )
    named = [variant for variant in runnable if variant.name == config.choose]
    return ExportedModel(
        variants=tuple(variants),
        chosen=(named or runnable)[-1].name,
        classes=ctx.get(TrainedModel).classes,
    )


def open_forge(
    config: ExportConfig, backends: Sequence[Backend], ctx: Context, samples: int
) -> Forge:
    """Read the calibration images and set up the graphs of the trained model."""
    spec = ctx.get(DataSpec)
    images = calibration_images(spec, samples, spec.batch_size, ctx)
    if len(images) < samples:
        ctx.events.warning(
            f"calibration.samples: {samples} were asked for, the split has {len(images)}"
        )
    least = max(parity.PARITY_BATCHES)
    forms = {implementation(backend).INT8_FORM for backend in backends}
    return Forge(
        config=config,
        spec=spec,
        trained=ctx.get(TrainedModel),
        images=images if len(images) >= least else at_least(images, least),
        ctx=ctx,
        compare_in="u8s8" if "u8s8" in forms else "s8s8",
    )


def measure_all(
    variants: Sequence[Variant], backends: Sequence[Backend], forge: Forge, ctx: Context
) -> dict[str, Measured]:
    """Measure accuracy and speed of every variant that runs here, side by side."""
    runnable = [variant for variant in variants if variant.runs_here]
    if not runnable:
        return {}
    config, profile = forge.config, profile_of(forge.config, forge.spec)
    with sessions(runnable, backends, config, ctx) as opened:
        predictions = predict(opened, forge.spec, profile, ctx)
        latency = measure_latency(opened, forge.images, profile, config.latency, ctx)
    return {name: Measured(predictions=predictions[name], latency=latency[name]) for name in opened}


def reference_predictions(
    trained: TrainedModel, measured: Mapping[str, Measured]
) -> Predictions | None:
    """Return what the trained model answered in FP32, checked to be about the same samples."""
    if trained.predictions is None:
        return None
    reference = load_predictions(trained.predictions)
    for found in measured.values():
        same_samples(reference, found.predictions)
    return reference


def _in_fp32(measured: Mapping[str, Measured], variants: Sequence[Variant]) -> Predictions | None:
    """Return what the dense network answered in FP32; None: nobody asked."""
    names = (v.name for v in variants if v.dense and v.precision == "fp32" and v.name in measured)
    name = next(names, None)
    return measured[name].predictions if name is not None else None


def fill(
    variant: Variant, measured: Measured | None, reference: Predictions | None, ctx: Context
) -> Variant:
    """Return the variant with its figures, and its predictions written beside it."""
    if measured is None:
        if not variant.size_bytes:
            return variant
        note = "; ".join(filter(None, ["accuracy and speed were not measured", variant.note]))
        return replace(variant, note=note)
    path = ctx.dir / variant.name / "predictions.npz"
    save_predictions(measured.predictions, path)
    found = measured.predictions
    return replace(
        variant,
        top1=found.top1,
        drop_points=100 * (reference.top1 - found.top1) if reference else None,
        agreement=found.agreement(reference) if reference else None,
        p50_ms=measured.latency.p50_ms,
        p99_ms=measured.latency.p99_ms,
        images_per_s=measured.latency.images_per_s,
        predictions=path,
    )


def announce(variant: Variant, ctx: Context) -> None:
    """Tell whoever listens about one variant."""
    ctx.events.emit(
        "variant",
        name=variant.name,
        backend=variant.backend,
        precision=variant.precision,
        size_bytes=variant.size_bytes,
        top1=variant.top1,
        drop_points=variant.drop_points,
        agreement=variant.agreement,
        p50_ms=variant.p50_ms,
        p99_ms=variant.p99_ms,
        images_per_s=variant.images_per_s,
        proof=dict(variant.proof),
        accepted=variant.accepted,
        note=variant.note,
    )
