"""Datasets: how a user names the data, in YAML.

dataset: digits
dataset: {folder: data/flowers}
dataset: {idx: /usr/share/datasets/fashion-mnist}
dataset: {webdataset: "shards/train-{000..009}.tar", eval: shards/val.tar}
dataset: {audio_folder: data/words}
dataset: {text: reviews.csv, column: review, label: stars}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from pipeline.artifacts import Kind
from pipeline.errors import nearest
from pipeline.stage import StageConfig

_KINDS = ("folder", "idx", "webdataset", "audio_folder", "text")
_BUILT_IN = ("digits", "keywords", "packages")


class FolderDataset(StageConfig):
    """Encoded images in one sub-folder a class."""

    folder: str = Field(min_length=1)
    """``root/class/*.jpg|png|...``, or ``root/train/class/*`` with ``root/val/class/*``."""
    eval: str = ""
    """A folder of eval images laid out by class; empty: found in the folder, or split off."""


class IdxDataset(StageConfig):
    """Images in the idx files of MNIST and its successors."""

    idx: str = Field(min_length=1)
    """The folder with ``train-images-idx3-ubyte.gz``, its labels, and the ``t10k`` pair."""
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names for labels 0, 1, ...; empty: the numbers themselves."""


class WebDataset(StageConfig):
    """Encoded images with their labels in tar shards."""

    webdataset: str = Field(min_length=1)
    """Training shards: one path, with ``{000..009}`` for a range or ``*`` for any."""
    eval: str = Field(min_length=1)
    """Eval shards, spelled the same way."""
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names for labels 0, 1, ...; empty: what the ``.cls`` members say."""


class AudioFolderDataset(StageConfig):
    """Audio files in one sub-folder a class."""

    audio_folder: str = Field(min_length=1)
    """``root/class/*.wav|flac|ogg``, or ``root/train/class/*`` with ``root/val/class/*``."""
    eval: str = ""
    """A folder of eval clips laid out by class; empty: found in the folder, or split off."""


class TextDataset(StageConfig):
    """Labelled texts, one a row of a table."""

    text: str = Field(min_length=1)
    """A ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file."""
    column: str | Annotated[tuple[str, str], Field(strict=False)] = "text"
    """Where the text is; two columns for texts of two parts, as ``[question, context]``."""
    label: str = "label"
    """The column of the class; classes that are whole numbers stand in their order."""
    eval: str = ""
    """A table of eval texts with the same columns; empty: split off."""
    sha256: str = Field(default="", pattern="^([0-9a-fA-F]{8,64})?$")
    """First digits, or all, of what the first table must hash to; empty: anything will do."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the text's parts."""
        return (self.column,) if isinstance(self.column, str) else self.column


def _known_dataset(value: object) -> object:
    """Say what is allowed in one sentence instead of one error for each kind of data set."""
    allowed = f"Allowed: {', '.join(_BUILT_IN)}, or a mapping with one of {', '.join(_KINDS)}."
    if isinstance(value, str) and value not in _BUILT_IN:
        raise ValueError(
            f"{value!r} is no built-in data set. {allowed}{nearest(value, _BUILT_IN)} "
            f"For an image folder write {{folder: {value}}}, for clips {{audio_folder: {value}}}, "
            f"for a table of texts {{text: {value}}}."
        )
    if isinstance(value, Mapping):
        named = [key for key in value if key in _KINDS]
        if len(named) != 1:
            first = next((str(key) for key in value), "")
            raise ValueError(
                f"{len(named)} of these keys are set. {allowed}{nearest(first, _KINDS)}"
            )
    elif not isinstance(value, str | StageConfig):
        raise ValueError(f"{value!r} is no data set. {allowed}")
    return value


def _dataset_kind(value: object) -> str:
    if isinstance(value, StageConfig):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return next(f"{key} data set" for key in _KINDS if key in value)
    return "name"


Dataset = Annotated[
    Annotated[Literal["digits", "keywords", "packages"], Tag("name")]
    | Annotated[FolderDataset, Tag("folder data set")]
    | Annotated[IdxDataset, Tag("idx data set")]
    | Annotated[WebDataset, Tag("webdataset data set")]
    | Annotated[AudioFolderDataset, Tag("audio_folder data set")]
    | Annotated[TextDataset, Tag("text data set")],
    Discriminator(_dataset_kind),
    BeforeValidator(_known_dataset),
]


def kind_of(dataset: Dataset) -> Kind:
    """Return what a data set holds."""
    if dataset == "packages" or isinstance(dataset, TextDataset):
        return "text"
    if dataset == "keywords" or isinstance(dataset, AudioFolderDataset):
        return "audio"
    return "image"
