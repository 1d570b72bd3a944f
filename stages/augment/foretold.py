"""Foretold: what the `DataSpec` will say, as far as the configuration and a listing tell it."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import DataSpec
from stages.augment.config import AugmentConfig
from stages.augment.datasets import FolderDataset, IdxDataset
from stages.augment.paths import user_path
from stages.augment.sources.folder import open_folder
from stages.augment.sources.idx import open_idx

_LARGEST_OWN_PX = 64
_NOWHERE = Path("not-written-yet")


def foretell(config: AugmentConfig) -> DataSpec | None:
    """Return classes and shape of the images, or None where only a look at them can tell.

    Raises:
        DataError: the data set is not there.
    """
    match config.dataset:
        case "digits":
            classes: tuple[str, ...] = tuple("0123456789")
            own, channels = (8, 8), 1
        case IdxDataset(idx=folder, classes=names):
            source = open_idx(user_path(folder), names)
            classes, own = source.classes, (source.images.shape[1], source.images.shape[2])
            channels = 1 if source.images.ndim == 3 else source.images.shape[3]
        case FolderDataset(folder=folder) if config.size != "auto":
            classes, own, channels = open_folder(user_path(folder)).classes, (0, 0), 3
        case _:
            return None
    if config.size != "auto":
        height, width = config.size
    elif max(own) <= _LARGEST_OWN_PX:
        height, width = own
    else:
        height = width = 224
    channels = channels if config.channels == "auto" else config.channels
    return DataSpec(
        kind="image", name="foretold", backend="", reader="", transforms=_NOWHERE, splits={},
        classes=classes, height=height, width=width, channels=channels,
        mean=(0.5,) * channels, std=(0.5,) * channels, batch_size=config.batch_size, digest="",
    )  # fmt: skip
