"""Arrange: from usable samples to the three splits, and to the shape that is handed over."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from stages.augment.audio.features import AudioFeatures
from stages.augment.audio.operations import FrequencyMask, Gain, TimeMask, TimeShift
from stages.augment.config import AugmentConfig
from stages.augment.sources import Finding, Item
from stages.augment.spec import (
    Affine,
    AnyOperation,
    CenterCrop,
    Flip,
    RandomResizedCrop,
    Resize,
    TransformSpec,
)
from stages.augment.split import stratified_sample, stratified_split
from stages.augment.text.features import TextFeatures
from stages.augment.text.operations import DropTokens
from stages.augment.view import CROP_SHARE

SMALL_SIDE = 64
"""Up to here images are drawings and thumbnails; above, photographs."""
PHOTO_SIDE = 224
_CLIP_DEFAULT = (TimeShift(), Gain(), TimeMask(), FrequencyMask())
_TEXT_DEFAULT = (DropTokens(),)


def choose_splits(
    items: Sequence[Item], findings: Sequence[Finding], usable: Sequence[int], config: AugmentConfig
) -> dict[str, list[int]]:
    """Return item indices by split; `calibration` is a part of `train`, `eval` of neither."""
    parts = {
        part: [i for i in usable if items[i].part == part] for part in ("train", "eval", "any")
    }
    train, held_out = parts["train"], parts["eval"]
    if not held_out:
        pool = train + parts["any"]
        labels = [items[i].label for i in pool]
        contents = [findings[i].sha256 for i in pool]
        first, second = stratified_split(
            labels, config.eval_share, config.split_seed, groups=contents
        )
        train, held_out = [pool[i] for i in first], [pool[i] for i in second]
    if config.limit_batches is not None:
        most = config.limit_batches * config.batch_size
        train, held_out = (_limited(part, items, most, config) for part in (train, held_out))
    drawn = stratified_sample(
        [items[i].label for i in train], config.calibration.samples, config.calibration.seed
    )
    return {"train": train, "eval": held_out, "calibration": [train[i] for i in drawn]}


def _limited(
    part: Sequence[int], items: Sequence[Item], most: int, config: AugmentConfig
) -> list[int]:
    drawn = stratified_sample([items[i].label for i in part], most, config.split_seed)
    return [part[i] for i in drawn]


def choose_shape(config: AugmentConfig, findings: Sequence[Finding]) -> tuple[int, int, int]:
    """Return height, width and channels: as configured, or as the usable samples suggest."""
    if config.kind == "text":
        return 0, 0, 0
    if config.kind == "audio":
        features = config.audio or AudioFeatures()
        return features.mels, features.frames, 1
    channels = config.channels
    if channels == "auto":
        channels = 1 if all(finding.mode in ("L", "1") for finding in findings) else 3
    if config.size != "auto":
        return (*config.size, channels)
    sizes = {(finding.height, finding.width) for finding in findings}
    if len(sizes) == 1 and max(max(size) for size in sizes) <= SMALL_SIDE:
        return (*sizes.pop(), channels)
    return PHOTO_SIDE, PHOTO_SIDE, channels


def choose_transforms(
    config: AugmentConfig, findings: Sequence[Finding], height: int, width: int
) -> TransformSpec:
    """Return the configured lists; one left out gets a moderate default for the data.

    Small pictures are turned and shifted a little and never mirrored (a mirrored digit is none);
    photographs are cropped at random and mirrored. Clips are shifted, made louder or quieter, and
    masked. Texts lose a word now and then.
    """
    if config.kind == "text":
        return TransformSpec(
            train=_TEXT_DEFAULT if config.train is None else config.train,
            text=config.text or TextFeatures(),
        )
    if config.kind == "audio":
        return TransformSpec(
            train=_CLIP_DEFAULT if config.train is None else config.train,
            eval=config.eval or (),
            audio=config.audio or AudioFeatures(),
        )
    small = all(max(finding.height, finding.width) <= SMALL_SIDE for finding in findings)
    train: tuple[AnyOperation, ...] = (RandomResizedCrop(scale=(0.25, 1.0)), Flip())
    eval_: tuple[AnyOperation, ...] = (
        Resize(shorter=round(min(height, width) / CROP_SHARE)),
        CenterCrop(),
    )
    if small:
        train = (Affine(degrees=(-10, 10), scale=(0.9, 1.1), translate=(0.1, 0.1)),)
        eval_ = (Resize(),)
    return TransformSpec(
        train=train if config.train is None else config.train,
        eval=eval_ if config.eval is None else config.eval,
    )


def data_digest(
    splits: Mapping[str, Sequence[int]],
    items: Sequence[Item],
    findings: Sequence[Finding],
    shape: tuple[int, int, int],
    transforms: TransformSpec,
) -> str:
    """Return the SHA-256 over contents, labels, splits, shape and eval transform."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        digest.update(f"{split} {len(splits[split])}\n".encode())
        for index in splits[split]:
            digest.update(f"{findings[index].sha256} {items[index].label}\n".encode())
    seen = {"eval"} | ({transforms.kind} - {"image"})
    digest.update(f"{shape} {transforms.model_dump_json(include=seen)}".encode())
    return digest.hexdigest()
