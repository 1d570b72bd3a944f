"""Opening: from the ``dataset`` of the configuration to the source that reads it."""

from __future__ import annotations

from pipeline.context import Context
from stages.augment.config import AugmentConfig, FolderDataset, IdxDataset, WebDataset
from stages.augment.paths import user_path
from stages.augment.sources import Source
from stages.augment.sources.folder import open_folder

DIGITS_FOLDER = "data"


def open_source(config: AugmentConfig, ctx: Context) -> Source:
    """Open the configured data set; built-in ones are written below ``ctx.dir`` first."""
    match config.dataset:
        case FolderDataset(folder=folder, eval=eval_folder):
            return open_folder(user_path(folder), user_path(eval_folder) if eval_folder else None)
        case "digits":
            from stages.augment.sources.digits import write_digits

            write_digits(ctx.dir / DIGITS_FOLDER, config.split_seed)
            return open_folder(ctx.dir / DIGITS_FOLDER, name="digits")
    raise AssertionError(config.dataset)
