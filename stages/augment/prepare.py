"""Prepare: the work of the augment stage, from a data set's name to a `DataSpec` with its data card."""

from __future__ import annotations

from pipeline.artifacts import DataSpec, Split
from pipeline.context import Context
from stages.augment.arrange import choose_shape, choose_splits, choose_transforms, data_digest
from stages.augment.config import AugmentConfig
from stages.augment.opening import open_source
from stages.augment.quarantine import set_aside

TRANSFORMS_FILE = "transforms.json"


def prepare(config: AugmentConfig, ctx: Context) -> DataSpec:
    """Check, split and describe the data set; everything is written into ``ctx.dir``."""
    source = open_source(config, ctx)
    for note in source.notes:
        ctx.events.warning(note)
    findings = source.inspect(ctx)
    usable, damaged = set_aside(source, findings, config.on_error, ctx)
    seen = [findings[index] for index in usable]
    splits = choose_splits(source.items, findings, usable, config)
    height, width, channels = shape = choose_shape(config, seen)
    transforms = choose_transforms(config, seen, height, width)
    transforms.save(ctx.dir / TRANSFORMS_FILE)
    backend = config.backend if config.backend != "auto" else "torchvision"
    spec = DataSpec(
        kind="image", name=source.name, backend=backend, reader=source.reader,
        transforms=ctx.dir / TRANSFORMS_FILE,
        splits={
            split: Split(manifest=source.write_manifest(split, chosen, ctx.dir), samples=len(chosen))
            for split, chosen in splits.items()
        },
        classes=source.classes, height=height, width=width, channels=channels,
        mean=(0.5,) * channels, std=(0.5,) * channels, batch_size=config.batch_size,
        digest=data_digest(splits, source.items, findings, shape, transforms),
    )  # fmt: skip
    return spec
