"""AugmentConfig: what a user can say about the data, in YAML.

augment: {dataset: digits, size: 32}
augment: {dataset: {folder: data/flowers}, size: 224, train: [random_resized_crop, flip]}
augment: {dataset: {idx: /usr/share/datasets/fashion-mnist}, batch_size: 256}
augment: {dataset: {audio_folder: data/words}, audio: {seconds: 1.0}, train: [time_mask]}
augment: {dataset: {webdataset: "shards/train-{000..009}.tar", eval: shards/val.tar}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from pipeline.errors import nearest
from pipeline.stage import StageConfig
from stages.augment.audio.features import AudioFeatures
from stages.augment.names import misplaced
from stages.augment.spec import Normalize, Operation, Operations, is_random

_KINDS = ("folder", "idx", "webdataset", "audio_folder")
_BUILT_IN = ("digits", "keywords")
_SIDE_MIN, _SIDE_MAX = 4, 4096


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


def _known_dataset(value: object) -> object:
    """Say what is allowed in one sentence instead of one error for each kind of data set."""
    allowed = f"Allowed: {', '.join(_BUILT_IN)}, or a mapping with one of {', '.join(_KINDS)}."
    if isinstance(value, str) and value not in _BUILT_IN:
        raise ValueError(
            f"{value!r} is no built-in data set. {allowed}{nearest(value, _BUILT_IN)} "
            f"For an image folder write {{folder: {value}}}, for clips {{audio_folder: {value}}}."
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
    Annotated[Literal["digits", "keywords"], Tag("name")]
    | Annotated[FolderDataset, Tag("folder data set")]
    | Annotated[IdxDataset, Tag("idx data set")]
    | Annotated[WebDataset, Tag("webdataset data set")]
    | Annotated[AudioFolderDataset, Tag("audio_folder data set")],
    Discriminator(_dataset_kind),
    BeforeValidator(_known_dataset),
]


def _as_height_width(value: object) -> object:
    """Read ``224`` as ``[224, 224]``; one sentence for anything that is no size."""
    sides = value if isinstance(value, list | tuple) else (value, value)
    if value != "auto" and (
        len(sides) != 2
        or any(isinstance(s, bool) or not isinstance(s, int) for s in sides)
        or not all(_SIDE_MIN <= s <= _SIDE_MAX for s in sides)
    ):
        raise ValueError(
            f"{value!r} is no size. Allowed: auto, one side in pixels, or [height, width], "
            f"each from {_SIDE_MIN} to {_SIDE_MAX}."
        )
    return value if value == "auto" else tuple(sides)


_SIDE_SCHEMA = {"type": "integer", "minimum": _SIDE_MIN, "maximum": _SIDE_MAX}
Size = Annotated[
    tuple[int, int] | Literal["auto"],
    BeforeValidator(_as_height_width),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                _SIDE_SCHEMA,
                {"type": "array", "items": _SIDE_SCHEMA, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]


def _same_each_time(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    for operation in operations:
        if is_random(operation):
            raise ValueError(
                f"{type(operation).__name__} is random as it stands, and eval has to give the "
                "same pixels each time. Fix its options, or move it to train."
            )
    return operations


EvalOperations = Annotated[Operations, AfterValidator(_same_each_time)]


class CalibrationConfig(StageConfig):
    """Which training images calibrate INT8; they are seen through the eval transform."""

    samples: int = Field(default=256, ge=1, le=65536)
    """How many, drawn from the training part with classes in their shares."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the draw; its own, so that another training seed does not move the ranges."""


class AugmentConfig(StageConfig):
    """The data set, its splits, and what is done to images on the way to the model."""

    dataset: Dataset
    """``digits`` (images), ``keywords`` (synthetic words), or a mapping with one of ``folder``,
    ``idx``, ``webdataset``, ``audio_folder``."""
    audio: AudioFeatures | None = None
    """How clips become spectrograms; left out: its defaults for clips, nothing for images."""
    size: Size = "auto"
    """Side, or [height, width], of the images handed over; auto: their own if all are alike and
    at most 64 pixels, else 224."""
    channels: Literal["auto", 1, 3] = "auto"
    """1 for grey, 3 for RGB; auto: 1 if every image is grey."""
    batch_size: int = Field(default=64, ge=1, le=65536)
    """Images a batch, unless a later stage says otherwise."""
    backend: str = "auto"
    """``auto``, ``dali-gpu``, ``dali-cpu``; for images ``torchvision`` or ``array``, for clips
    ``soundfile``."""
    train: Operations | None = None
    """Operations on training images; left out: a moderate choice, see the report."""
    eval: EvalOperations | None = None
    """Operations on eval, calibration and served images; left out: resize and crop the middle."""
    limit_batches: int | None = Field(default=None, ge=1)
    """At most so many batches of each split, classes in their shares; for trying things out."""
    calibration: CalibrationConfig = CalibrationConfig()
    """The split that INT8 ranges are measured on."""
    on_error: Literal["skip", "fail"] = "skip"
    """What a damaged image does: ``skip`` leaves it out and names it, ``fail`` stops."""
    eval_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of each class that is held out where the data set has no eval part of its own."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Of that split."""
    mean_std: Literal["auto", "imagenet", "half"] = "auto"
    """What the model normalizes with: measured on the training part, ImageNet's figures, or 0.5; a
    ``normalize`` operation with values of its own decides instead."""

    @property
    def holds_audio(self) -> bool:
        """Whether the data set holds clips of sound, and not images."""
        return self.dataset == "keywords" or isinstance(self.dataset, AudioFolderDataset)

    @model_validator(mode="after")
    def _fits_the_data(self) -> Self:
        wrong = misplaced((*(self.train or ()), *(self.eval or ())), audio=self.holds_audio)
        if wrong:
            raise ValueError(wrong)
        if self.audio is not None and not self.holds_audio:
            raise ValueError(
                "audio: is for clips of sound, and the data set holds images. Leave it out, or "
                "use dataset: keywords or dataset: {audio_folder: ...}."
            )
        if self.holds_audio and (self.size != "auto" or self.channels != "auto"):
            raise ValueError(
                "size and channels are for images; a spectrogram has mels x frames and one "
                "channel. Leave them out and set audio: {mels: ..., seconds: ..., hop_ms: ...}."
            )
        if self.holds_audio and self.mean_std == "imagenet":
            raise ValueError(
                "mean_std: imagenet is for photographs. Allowed for clips: 'auto' or 'half'."
            )
        return self

    @model_validator(mode="after")
    def _one_normalization(self) -> Self:
        given = [op for op in (*(self.train or ()), *(self.eval or ())) if _has_values(op)]
        if given and self.mean_std != "auto":
            raise ValueError(
                f"mean_std is '{self.mean_std}' and a normalize operation gives values as well. "
                "Say it once: leave mean_std out, or write a bare normalize."
            )
        if any(op != given[0] for op in given):
            raise ValueError(
                "normalize has other values in train than in eval; the model has one. "
                "Give both the same."
            )
        return self


def _has_values(operation: Operation) -> bool:
    return isinstance(operation, Normalize) and (operation.mean or operation.std) is not None
