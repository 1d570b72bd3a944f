"""AugmentConfig: what a user can say about the data, in YAML.

augment: {dataset: digits, size: 32}
augment: {dataset: {folder: data/flowers}, size: 224, train: [random_resized_crop, flip]}
augment: {dataset: {audio_folder: data/words}, audio: {seconds: 1.0}, train: [time_mask]}
augment: {dataset: {text: reviews.csv}, text: {vocabulary: 8000}, train: [drop_tokens]}
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from pipeline.artifacts import Kind
from pipeline.stage import StageConfig
from stages.augment.audio.features import AudioFeatures
from stages.augment.datasets import Dataset, kind_of
from stages.augment.names import THINGS, misplaced
from stages.augment.spec import Normalize, Operation, Operations, is_random
from stages.augment.text.features import TextFeatures

_SIDE_MIN, _SIDE_MAX = 4, 4096


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


_EXAMPLES: dict[Kind, str] = {
    "audio": "keywords or dataset: {audio_folder: ...}",
    "text": "packages or dataset: {text: table.csv}",
}
"""Data sets for each section that has the name of a kind."""
_INSTEAD: dict[Kind, str] = {
    "audio": "a spectrogram has mels x frames and one channel. Leave them out and set "
    "audio: {mels: ..., seconds: ..., hop_ms: ...}.",
    "text": "a text has tokens. Leave them out and set text: {length: ...}.",
}


class CalibrationConfig(StageConfig):
    """Which training images calibrate INT8; they are seen through the eval transform."""

    samples: int = Field(default=256, ge=1, le=65536)
    """How many, drawn from the training part with classes in their shares."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the draw; its own, so that another training seed does not move the ranges."""


class AugmentConfig(StageConfig):
    """The data set, its splits, and what is done to images on the way to the model."""

    dataset: Dataset
    """``digits`` (images), ``keywords`` (synthetic words), ``packages`` (texts that a Debian or
    Ubuntu system has), or a mapping with one of ``folder``, ``idx``, ``webdataset``,
    ``audio_folder``, ``text``."""
    audio: AudioFeatures | None = None
    """How clips become spectrograms; left out: its defaults for clips, nothing for others."""
    text: TextFeatures | None = None
    """How texts become tokens; left out: its defaults for texts, nothing for others."""
    size: Size = "auto"
    """Side, or [height, width], of the images handed over; auto: their own if all are alike and
    at most 64 pixels, else 224."""
    channels: Literal["auto", 1, 3] = "auto"
    """1 for grey, 3 for RGB; auto: 1 if every image is grey."""
    batch_size: int = Field(default=64, ge=1, le=65536)
    """Images a batch, unless a later stage says otherwise."""
    backend: str = "auto"
    """``auto``, ``dali-gpu``, ``dali-cpu``; for images ``torchvision`` or ``array``, for clips
    ``soundfile``; for texts ``tokens``."""
    train: Operations | None = None
    """Operations on training images; left out: a moderate choice, see the report."""
    eval: EvalOperations | None = None
    """Operations on eval, calibration and served images; left out: resize and crop the middle."""
    limit_batches: int | None = Field(default=None, ge=1)
    """At most so many batches of each split, classes in their shares, and of a folder no more files
    are read than these take; for trying things out."""
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
    def kind(self) -> Kind:
        """What the data set holds."""
        return kind_of(self.dataset)

    @model_validator(mode="after")
    def _fits_the_data(self) -> Self:
        wrong = misplaced((*(self.train or ()), *(self.eval or ())), self.kind)
        if wrong:
            raise ValueError(wrong)
        for kind, example in _EXAMPLES.items():
            if getattr(self, kind) is not None and self.kind != kind:
                raise ValueError(
                    f"{kind}: is for {THINGS[kind]}, and the data set holds {THINGS[self.kind]}. "
                    f"Leave it out, or use dataset: {example}."
                )
        if self.kind != "image" and (self.size != "auto" or self.channels != "auto"):
            raise ValueError(f"size and channels are for images; {_INSTEAD[self.kind]}")
        if self.kind == "text" and (self.mean_std != "auto" or self.eval):
            raise ValueError(
                "mean_std and eval are for images and clips; a text is prepared by its tokenizer "
                "alone. Leave them out and set text: {tokenizer: ..., lowercase: ...}."
            )
        if self.kind == "audio" and self.mean_std == "imagenet":
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
