"""Prepare: the work of the augment stage, from the name of a data set to its `DataSpec`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import DataSpec, Split
from pipeline.backend import select
from pipeline.context import Context
from pipeline.errors import DataError
from pipeline.files import sha256_file, sha256_text
from pipeline.report.blocks import Block
from stages.augment.arrange import choose_shape, choose_splits, choose_transforms, data_digest
from stages.augment.backends import backends_for, choose_backend
from stages.augment.card import DataCard, make_card
from stages.augment.chapter import FactRows, image_facts, image_gallery, make_section
from stages.augment.config import AugmentConfig
from stages.augment.glance import look
from stages.augment.measure import measure_throughput
from stages.augment.normalization import choose_mean_std
from stages.augment.opening import open_source
from stages.augment.plan import make_plan
from stages.augment.preview import write_preview
from stages.augment.quarantine import set_aside
from stages.augment.serve_graph import eval_plan, why_not_servable, write_serving_graph
from stages.augment.sources import Finding, Source
from stages.augment.spec import RandomResizedCrop, TransformSpec
from stages.augment.text.features import TextFeatures
from stages.augment.view import narrow_view

TRANSFORMS_FILE = "transforms.json"
PREPROCESS_FILE = "preprocess.dali"


def prepare(config: AugmentConfig, ctx: Context) -> DataSpec:
    """Check, split and describe the data set; everything is written into ``ctx.dir``."""
    whole = open_source(config, ctx)
    for note in whole.notes:
        ctx.events.warning(note)
    source, findings = look(whole, config, ctx)
    usable, damaged = set_aside(source, findings, config.on_error, ctx)
    splits = choose_splits(source.items, findings, usable, config)
    if len(splits["train"]) < config.batch_size:
        raise DataError(
            f"{source.name}: batch_size is {config.batch_size} and the train split has "
            f"{len(splits['train'])} {source.noun}s, not one full batch. Lower batch_size or add "
            f"{source.noun}s."
        )
    spec, reason = _describe(config, source, findings, splits, ctx)
    if spec.kind == "text":
        spec = _with_tokenizer(config, spec, source, splits["train"], ctx)
    else:
        mean, std = choose_mean_std(config, spec, source, splits["train"], ctx)
        spec = replace(spec, mean=mean, std=std, preprocess=_write_graph(spec, ctx))
    unseen = len(whole.items) - len(source.items)
    card = make_card(source, findings, splits, num_damaged=len(damaged), num_unseen=unseen)
    card.save(ctx.dir)
    for warning in card.warnings():
        ctx.events.warning(warning)
    throughput = measure_throughput(spec, ctx)
    ctx.events.emit("loader", backend=spec.backend, images_per_s=round(throughput.images_per_s, 1))
    used = [findings[index] for split in ("train", "eval") for index in splits[split]]
    transforms = TransformSpec.load(spec.transforms)
    examples, facts = _show(spec, transforms, card, used, ctx)
    section = make_section(
        spec, card, damaged=damaged, throughput=throughput, examples=examples, facts=facts,
        transforms=transforms, reason=reason,
    )  # fmt: skip
    ctx.write_section(section)
    return spec


def _show(
    spec: DataSpec,
    transforms: TransformSpec,
    card: DataCard,
    used: Sequence[Finding],
    ctx: Context,
) -> tuple[Block, FactRows]:
    """Return what the report shows of images, of clips or of texts."""
    if transforms.text is not None:
        from stages.augment.text.chapter import show_texts

        return show_texts(used, spec, transforms.text)
    if transforms.audio is None:
        return image_gallery(write_preview(spec, ctx)), image_facts(card)
    from stages.augment.audio.chapter import clip_facts, clip_gallery

    return clip_gallery(spec, ctx), clip_facts(used, transforms.audio)


def _describe(
    config: AugmentConfig,
    source: Source,
    findings: Sequence[Finding],
    splits: Mapping[str, Sequence[int]],
    ctx: Context,
) -> tuple[DataSpec, str]:
    """Write manifests and transforms; return the spec without figures, and why its backend."""
    used = [findings[index] for split in ("train", "eval") for index in splits[split]]
    height, width, channels = shape = choose_shape(config, used)
    transforms = choose_transforms(config, used, height, width)
    transforms.save(ctx.dir / TRANSFORMS_FILE)
    if config.size == "auto" and (
        narrow := narrow_view(transforms.eval, height=height, width=width)
    ):
        ctx.events.warning(f"eval: {narrow}")
    written = {
        split: Split(manifest=source.write_manifest(split, chosen, ctx.dir), samples=len(chosen))
        for split, chosen in splits.items()
    }
    backend, reason = _backend(config, source, used, shape, transforms, ctx)
    ctx.events.info(reason)
    spec = DataSpec(
        kind=config.kind,
        name=source.name, backend=backend, reader=source.reader,
        transforms=ctx.dir / TRANSFORMS_FILE, splits=written, classes=source.classes,
        height=height, width=width, channels=channels,
        mean=(0.0,) * channels, std=(1.0,) * channels, batch_size=config.batch_size,
        digest=data_digest(splits, source.items, findings, shape, transforms),
    )  # fmt: skip
    return spec, reason


def _with_tokenizer(
    config: AugmentConfig, spec: DataSpec, source: Source, train: Sequence[int], ctx: Context
) -> DataSpec:
    """Leave the tokenizer, which is all the preprocessing that a text needs."""
    from stages.augment.text.prepare import write_tokenizer

    path, tokens = write_tokenizer(config.text or TextFeatures(), source, train, ctx)
    digest = sha256_text(spec.digest + sha256_file(path))
    return replace(spec, preprocess=path, tokens=tokens, mean=(), std=(), digest=digest)


def _backend(
    config: AugmentConfig,
    source: Source,
    used: Sequence[Finding],
    shape: tuple[int, int, int],
    transforms: TransformSpec,
    ctx: Context,
) -> tuple[str, str]:
    """Choose by what the images typically are, and what is done to them."""
    if config.kind != "image":
        backends = backends_for(config.kind)
        selection = select(backends, config.backend, ctx.device, where="stages.augment.backend")
        return selection.backend.name, selection.reason
    plan = make_plan(transforms.train, height=shape[0], width=shape[1], channels=shape[2])
    return choose_backend(
        config.backend, ctx.device,
        reader=source.reader,
        source_size=(_median([f.height for f in used]), _median([f.width for f in used])),
        target=shape[:2],
        samples=len(used),
        crops=any(isinstance(op, RandomResizedCrop) for op in transforms.train),
        geometry_only=not (plan.pixel or plan.warped),
        jpeg=2 * sum(f.kind == "JPEG" for f in used) > len(used),
    )  # fmt: skip


def _write_graph(spec: DataSpec, ctx: Context) -> Path | None:
    """Leave the eval transform as a graph for servers, or warn that there can be none."""
    plan = eval_plan(
        TransformSpec.load(spec.transforms),
        height=spec.height,
        width=spec.width,
        channels=spec.channels,
    )
    reason = why_not_servable(plan)
    if reason:
        ctx.events.warning(f"the model will be served for raw pixels only: {reason}")
        return None
    path = ctx.dir / PREPROCESS_FILE
    write_serving_graph(plan, path)
    return path


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]
