"""TransformSpec: the one declarative description of preprocessing, which every backend executes.

train: [random_resized_crop: {scale: [0.3, 1.0]}, flip, rotate: {degrees: 10}]
eval:  [resize: {shorter: 256}, center_crop]

An entry is a bare name or a mapping of one name to its options. ``decode`` stands first, written
or not. All geometry (crops, resize, flip, rotate, affine) is joined into one resample that comes
before the operations on pixels; each of the two keeps its order. Whatever size the geometry
leaves is stretched to the data set's height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from pipeline.artifacts import Kind
from pipeline.errors import DataError, choices, nearest
from pipeline.files import write_atomic
from stages.augment.audio.features import AudioFeatures
from stages.augment.audio.operations import AudioOperation
from stages.augment.names import OPERATIONS, misplaced
from stages.augment.operations import (
    Affine,
    AnyOperation,
    CenterCrop,
    Flip,
    Normalize,
    OnBatch,
    Operation,
    RandomResizedCrop,
    Resize,
    as_tuple,
    is_random,
)
from stages.augment.text.features import TextFeatures
from stages.augment.text.operations import TextOperation

__all__ = [
    "OPERATIONS", "Affine", "AnyOperation", "CenterCrop", "Flip", "Normalize", "Operation",
    "Operations", "RandomResizedCrop", "Resize", "TransformSpec", "is_random",
]  # fmt: skip

Listed = AnyOperation | AudioOperation | TextOperation
"""What may stand in a transform list."""


def _read_entry(entry: object) -> object:
    """Turn ``flip`` or ``{flip: {...}}`` into the operation's own fields."""
    if isinstance(entry, Operation):
        return entry
    name, options = entry, None
    if isinstance(entry, Mapping):
        if len(entry) != 1:
            raise ValueError(
                f"an entry is one operation, and this mapping has the keys {list(entry)}. "
                "Start each operation with a dash of its own"
            )
        ((name, options),) = entry.items()
    if not isinstance(name, str) or name not in OPERATIONS:
        raise ValueError(
            f"{name!r} is no operation. Allowed: {choices(OPERATIONS)}."
            + (nearest(name, OPERATIONS) if isinstance(name, str) else "")
        )
    if not isinstance(options, Mapping | None):
        raise ValueError(f"the options of {name!r} are a mapping, not {options!r}")
    if options and "op" in options:
        raise ValueError(f"{name!r} has no option 'op'")
    return {**(options or {}), "op": name}


def _write_entry(operation: Operation) -> dict[str, JsonValue]:
    options = operation.model_dump(mode="json")
    return {options.pop("op"): options}


def _entry_schema() -> dict[str, JsonValue]:
    entries: list[JsonValue] = [{"enum": list(OPERATIONS)}]
    for name, operation in OPERATIONS.items():
        options = operation.model_json_schema()
        options["properties"].pop("op")
        options["type"] = ["object", "null"]
        entries.append(
            {
                "type": "object",
                "properties": {name: options},
                "required": [name],
                "additionalProperties": False,
            }
        )
    return {"anyOf": entries}


Entry = Annotated[
    Annotated[Listed, Field(discriminator="op")],
    BeforeValidator(_read_entry),
    PlainSerializer(_write_entry, return_type=dict[str, JsonValue]),
    WithJsonSchema(_entry_schema()),
]
"""One line of a transform list: an operation, read from a bare name or a one-key mapping."""


def _of_audio(operations: tuple[Listed, ...]) -> tuple[str, ...]:
    return tuple(o.op for o in operations if isinstance(o, AudioOperation))


def _check_order(operations: tuple[Listed, ...]) -> tuple[Listed, ...]:
    names: list[str] = [operation.op for operation in operations]
    if "decode" in names[1:]:
        raise ValueError("'decode' can only stand first")
    for single in ("decode", "normalize", *_of_audio(operations)):
        if names.count(single) > 1:
            raise ValueError(
                f"{single!r} stands there {names.count(single)} times; once is allowed"
            )
    mixing = [i for i, operation in enumerate(operations) if isinstance(operation, OnBatch)]
    rest = [o.op for o in operations[mixing[0] :]] if mixing else []
    late = [name for name in rest if name not in ("mixup", "cutmix", "normalize")]
    if late:
        raise ValueError(
            f"{late[0]!r} stands after {rest[0]!r}, which works on whole batches. "
            "Put mixup and cutmix at the end"
        )
    return operations


Operations = Annotated[tuple[Entry, ...], BeforeValidator(as_tuple), AfterValidator(_check_order)]
"""A transform list."""


class TransformSpec(BaseModel):
    """What happens to an image before the model sees it, in training and everywhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: Operations = ()
    """Operations on the train split, in order."""
    eval: Operations = ()
    """Operations on every other split, and in serving; none of them may be random."""
    audio: AudioFeatures | None = None
    """How clips become spectrograms; None: the data set holds none."""
    text: TextFeatures | None = None
    """How texts become tokens; None: the data set holds none."""

    @property
    def kind(self) -> Kind:
        """What the data set holds."""
        if self.text is not None:
            return "text"
        return "image" if self.audio is None else "audio"

    @model_validator(mode="after")
    def _eval_is_deterministic(self) -> Self:
        for operation in self.eval:
            if is_random(operation):
                raise ValueError(
                    f"eval: {operation.op!r} is random as it stands, and eval has to give the same "
                    "pixels each time. Fix its options, or move it to train"
                )
        return self

    @model_validator(mode="after")
    def _operations_fit_the_data(self) -> Self:
        wrong = misplaced((*self.train, *self.eval), self.kind)
        if wrong:
            raise ValueError(wrong)
        return self

    def to_json(self) -> str:
        """Return the spec as JSON; that of images says nothing of audio or text."""
        absent = {name for name in ("audio", "text") if getattr(self, name) is None}
        return self.model_dump_json(indent=1, exclude=absent)

    def save(self, path: Path) -> None:
        """Write the spec as JSON."""
        write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> TransformSpec:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing or holds something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(
                f"{path}: the transform spec cannot be read: {error}. Run the augment stage again."
            ) from error
