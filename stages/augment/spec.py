"""TransformSpec: the one declarative description of preprocessing, which every backend executes.

train: [random_resized_crop: {scale: [0.3, 1.0]}, flip, rotate: {degrees: 10}]
eval:  [resize: {shorter: 256}, center_crop]

An entry is a bare name or a mapping of one name to its options. ``decode`` stands first, written
or not. All geometry (crops, resize, flip, rotate, affine) is joined into one resample that comes
before the operations on pixels; each of the two keeps its order. Whatever size the geometry
leaves is stretched to the data set's height and width."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

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

from pipeline.errors import DataError, choices, nearest
from pipeline.files import write_atomic


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the lower bound {pair[0]} is above the upper bound {pair[1]}")
    return pair


def _symmetric(value: object) -> object:
    """Read ``10`` as ``[-10, 10]``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (-abs(float(value)), abs(float(value)))
    return _as_tuple(value)


def _around_one(value: object) -> object:
    """Read ``0.4`` as ``[0.6, 1.4]``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (max(0.0, 1.0 - abs(value)), 1.0 + abs(float(value)))
    return _as_tuple(value)


_PAIR_SCHEMA = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_NUMBER_OR_PAIR = WithJsonSchema({"anyOf": [{"type": "number"}, _PAIR_SCHEMA]})

Bounds = Annotated[tuple[float, float], BeforeValidator(_as_tuple), AfterValidator(_ordered)]
"""A closed interval ``[low, high]`` to draw from; equal bounds fix the value."""
Spread = Annotated[
    tuple[float, float], BeforeValidator(_symmetric), AfterValidator(_ordered), _NUMBER_OR_PAIR
]
"""An interval, or one number for plus and minus that number."""
Factor = Annotated[
    tuple[float, float], BeforeValidator(_around_one), AfterValidator(_ordered), _NUMBER_OR_PAIR
]
"""An interval of factors, or one number for 1 plus and minus that number."""
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Fill = Literal["black", "edge"]


class Operation(BaseModel):
    """One entry of a transform list; subclasses carry the options."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Decode(Operation):
    """Turn an encoded file into pixels."""

    op: Literal["decode"] = "decode"
    scaled: bool = True
    """Let JPEGs far larger than needed be decoded at 1/2, 1/4 or 1/8, where the backend can."""


class RandomResizedCrop(Operation):
    """Cut out a random part and stretch it to the target."""

    op: Literal["random_resized_crop"] = "random_resized_crop"
    scale: Bounds = (0.08, 1.0)
    """Share of the image's area."""
    ratio: Bounds = (0.75, 4 / 3)
    """Width over height of the part."""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.scale[0] <= 0 or self.scale[1] > 1:
            raise ValueError(f"scale {list(self.scale)} must lie above 0 and not above 1")
        if self.ratio[0] <= 0:
            raise ValueError(f"ratio {list(self.ratio)} must be above 0")
        return self


class Resize(Operation):
    """Stretch to the target, or keep the aspect ratio when `shorter` is given."""

    op: Literal["resize"] = "resize"
    shorter: int | None = Field(default=None, ge=1)
    """Length of the shorter side afterwards; usually followed by ``center_crop``."""


class CenterCrop(Operation):
    """Cut out the middle; what lies outside the image is black."""

    op: Literal["center_crop"] = "center_crop"
    size: int | None = Field(default=None, ge=1)
    """Side of the square; the target's height and width when left out."""


class Flip(Operation):
    """Mirror at random."""

    op: Literal["flip"] = "flip"
    horizontal: Probability = 0.5
    """Probability of swapping left and right."""
    vertical: Probability = 0.0
    """Probability of swapping top and bottom."""


class Rotate(Operation):
    """Turn about the centre, counter-clockwise for positive degrees."""

    op: Literal["rotate"] = "rotate"
    degrees: Spread = (-15.0, 15.0)
    """``10`` draws from -10 to 10; ``[10, 10]`` is always 10."""
    fill: Fill = "black"
    """What lies outside the image: ``black``, or ``edge`` to repeat the border."""


class Affine(Operation):
    """Turn, scale, shear and shift about the centre."""

    op: Literal["affine"] = "affine"
    degrees: Spread = (0.0, 0.0)
    """Turn, as in ``rotate``."""
    scale: Factor = (1.0, 1.0)
    """Size afterwards over size before."""
    shear: Spread = (0.0, 0.0)
    """Degrees along x."""
    translate: Annotated[tuple[float, float], BeforeValidator(_as_tuple)] = (0.0, 0.0)
    """Largest shift to either side along x and y, as a share of width and height."""
    fill: Fill = "black"
    """What lies outside the image."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.scale[0] <= 0:
            raise ValueError(f"scale {list(self.scale)} must be above 0")
        if max(abs(bound) for bound in self.shear) >= 90:
            raise ValueError(f"shear {list(self.shear)} must stay under 90 degrees")
        return self


class ColorJitter(Operation):
    """Change brightness, contrast, saturation and hue at random."""

    op: Literal["color_jitter"] = "color_jitter"
    brightness: Factor = (1.0, 1.0)
    """``0.4`` draws a factor from 0.6 to 1.4."""
    contrast: Factor = (1.0, 1.0)
    """Factor about mid-gray."""
    saturation: Factor = (1.0, 1.0)
    """Factor; 0 is gray."""
    hue: Spread = (0.0, 0.0)
    """Turn of the colour wheel in degrees."""


class GaussianBlur(Operation):
    """Blur with a Gaussian of random width."""

    op: Literal["gaussian_blur"] = "gaussian_blur"
    sigma: Bounds = (0.1, 2.0)
    """Standard deviation in pixels."""
    p: Probability = 1.0
    """Probability of blurring at all."""


class Erase(Operation):
    """Black out a random rectangle."""

    op: Literal["erase"] = "erase"
    p: Probability = 0.25
    """Probability of erasing at all."""
    area: Bounds = (0.02, 0.33)
    """Share of the image's area."""
    ratio: Bounds = (0.3, 3.3)
    """Width over height of the rectangle."""


class RandAugment(Operation):
    """RandAugment (Cubuk et al., 2019): `n` random operations of one strength."""

    op: Literal["rand_augment"] = "rand_augment"
    n: int = Field(default=2, ge=1, le=10)
    """How many operations follow each other."""
    m: int = Field(default=9, ge=0, le=30)
    """Strength, of 30."""


class TrivialAugment(Operation):
    """TrivialAugment (Müller and Hutter, 2021): one random operation of random strength."""

    op: Literal["trivial_augment"] = "trivial_augment"


class AutoAugment(Operation):
    """AutoAugment (Cubuk et al., 2018) with the policy found for ImageNet."""

    op: Literal["auto_augment"] = "auto_augment"


class Normalize(Operation):
    """State the mean and spread that the model normalizes with; no work for the loader."""

    op: Literal["normalize"] = "normalize"
    mean: Annotated[tuple[float, ...], BeforeValidator(_as_tuple)] | None = None
    """Per channel on the 0..1 scale; measured on the train split when left out."""
    std: Annotated[tuple[float, ...], BeforeValidator(_as_tuple)] | None = None
    """Per channel on the 0..1 scale; measured on the train split when left out."""


class Mixup(Operation):
    """Blend each image with another of its batch (Zhang et al., 2017)."""

    op: Literal["mixup"] = "mixup"
    alpha: float = Field(default=0.2, gt=0)
    """Parameter of the Beta distribution the share is drawn from."""
    p: Probability = 1.0
    """Probability of blending the batch at all."""


class Cutmix(Operation):
    """Paste a rectangle of another image of the batch into each (Yun et al., 2019)."""

    op: Literal["cutmix"] = "cutmix"
    alpha: float = Field(default=1.0, gt=0)
    """Parameter of the Beta distribution the share is drawn from."""
    p: Probability = 1.0
    """Probability of pasting at all."""


Geometry = RandomResizedCrop | Resize | CenterCrop | Flip | Rotate | Affine
Automatic = RandAugment | TrivialAugment | AutoAugment
Color = ColorJitter | GaussianBlur | Erase
OnBatch = Mixup | Cutmix
AnyOperation = Decode | Geometry | Automatic | Color | OnBatch | Normalize

OPERATIONS: dict[str, type[Operation]] = {
    operation.model_fields["op"].default: operation for operation in get_args(AnyOperation)
}
"""Every operation by the name it has in the YAML."""


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
    Annotated[AnyOperation, Field(discriminator="op")],
    BeforeValidator(_read_entry),
    PlainSerializer(_write_entry, return_type=dict[str, JsonValue]),
    WithJsonSchema(_entry_schema()),
]
"""One line of a transform list: an operation, read from a bare name or a one-key mapping."""


def _check_order(operations: tuple[AnyOperation, ...]) -> tuple[AnyOperation, ...]:
    names = [operation.op for operation in operations]
    if "decode" in names[1:]:
        raise ValueError("'decode' can only stand first")
    for single in ("decode", "normalize"):
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


Operations = Annotated[tuple[Entry, ...], BeforeValidator(_as_tuple), AfterValidator(_check_order)]
"""A transform list."""


class TransformSpec(BaseModel):
    """What happens to an image before the model sees it, in training and everywhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: Operations = ()
    """Operations on the train split, in order."""
    eval: Operations = ()
    """Operations on every other split, and in serving; none of them may be random."""

    @model_validator(mode="after")
    def _eval_is_deterministic(self) -> Self:
        for operation in self.eval:
            if is_random(operation):
                raise ValueError(
                    f"eval: {operation.op!r} is random as it stands, and eval has to give the same "
                    "pixels each time. Fix its options, or move it to train"
                )
        return self

    def save(self, path: Path) -> None:
        """Write the spec as JSON."""
        write_atomic(path, self.model_dump_json(indent=1))

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


def is_random(operation: Operation) -> bool:
    """Tell whether an operation gives different pixels from one time to the next."""
    match operation:
        case Flip(horizontal=h, vertical=v):
            return h not in (0, 1) or v not in (0, 1)
        case Rotate(degrees=(low, high)):
            return low != high
        case Affine() as a:
            pairs = (a.degrees, a.scale, a.shear)
            return any(low != high for low, high in pairs) or a.translate != (0, 0)
        case ColorJitter() as c:
            factors = (c.brightness, c.contrast, c.saturation, c.hue)
            return any(low != high for low, high in factors)
        case GaussianBlur(sigma=(low, high), p=p):
            return low != high or p not in (0, 1)
        case Decode() | Resize() | CenterCrop() | Normalize():
            return False
        case _:
            return True
