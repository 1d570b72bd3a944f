"""Opening: from the ``dataset`` of the configuration to the source that reads it."""

from __future__ import annotations

from pathlib import Path

from pipeline.context import Context
from stages.augment.config import AugmentConfig
from stages.augment.datasets import (
    AudioFolderDataset,
    FolderDataset,
    IdxDataset,
    TextDataset,
    WebDataset,
)
from stages.augment.paths import expand_shards, user_path
from stages.augment.sources import Part, Source
from stages.augment.sources.digits import write_digits
from stages.augment.sources.folder import open_folder
from stages.augment.sources.idx import open_idx
from stages.augment.sources.keywords import KEYWORDS_NAME, write_keywords
from stages.augment.sources.shards import open_shards

BUILT_IN_FOLDER = "data"


def open_source(config: AugmentConfig, ctx: Context) -> Source:
    """Open the configured data set; built-in ones are written below ``ctx.dir`` first."""
    match config.dataset:
        case FolderDataset(folder=folder, eval=eval_folder):
            return open_folder(user_path(folder), user_path(eval_folder) if eval_folder else None)
        case "digits":
            write_digits(ctx.dir / BUILT_IN_FOLDER, config.split_seed)
            return open_folder(ctx.dir / BUILT_IN_FOLDER, name="digits")
        case AudioFolderDataset(audio_folder=folder, eval=eval_folder):
            from stages.augment.audio.scan import SOUNDS

            held_out = user_path(eval_folder) if eval_folder else None
            return open_folder(user_path(folder), held_out, media=SOUNDS)
        case "keywords":
            from stages.augment.audio.scan import SOUNDS

            write_keywords(ctx.dir / BUILT_IN_FOLDER, config.split_seed)
            return open_folder(ctx.dir / BUILT_IN_FOLDER, name=KEYWORDS_NAME, media=SOUNDS)
        case IdxDataset(idx=folder, classes=classes):
            return open_idx(user_path(folder), classes)
        case WebDataset(webdataset=train, eval=held_out, classes=classes):
            shards: dict[Part, list[Path]] = {
                "train": expand_shards(train), "eval": expand_shards(held_out)
            }  # fmt: skip
            return open_shards(shards, classes, ctx, name=user_path(train).parent.name)
        case TextDataset(text=table, eval=eval_table) as given:
            from stages.augment.text.source import open_text

            return open_text(
                user_path(table), user_path(eval_table) if eval_table else None,
                given.columns, given.label, sha256=given.sha256,
            )  # fmt: skip
        case "packages":
            return _open_packages(ctx)
    raise AssertionError(config.dataset)


def _open_packages(ctx: Context) -> Source:
    from stages.augment.text.packages import FILES, write_packages
    from stages.augment.text.source import open_text

    folder = ctx.dir / BUILT_IN_FOLDER
    digest = write_packages(folder)
    ctx.events.info(f"packages: SHA-256 {digest}; figures of other hashes are of other texts")
    return open_text(
        folder / FILES["train"], folder / FILES["eval"], ("text",), "label", name="packages"
    )
