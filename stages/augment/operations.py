"""Operation: one line of a transform list, with its options."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)


def as_tuple(value: object) -> object:
    """Read a YAML list where a tuple is wanted."""
    return tuple(value) if isinstance(value, list) else value


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the lower bound {pair[0]} is above the upper bound {pair[1]}")
    return pair


def _symmetric(value: object) -> object:
    """Read ``10`` as ``[-10, 10]``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (-abs(float(value)), abs(float(value)))
    return as_tuple(value)


def _around_one(value: object) -> object:
    """Read ``0.4`` as ``[0.6, 1.4]``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (max(0.0, 1.0 - abs(value)), 1.0 + abs(float(value)))
    return as_tuple(value)


_PAIR_SCHEMA = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_NUMBER_OR_PAIR = WithJsonSchema({"anyOf": [{"type": "number"}, _PAIR_SCHEMA]})

Bounds = Annotated[tuple[float, float], BeforeValidator(as_tuple), AfterValidator(_ordered)]
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
    translate: Annotated[tuple[float, float], BeforeValidator(as_tuple)] = (0.0, 0.0)
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

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("brightness", "contrast", "saturation"):
            low = getattr(self, name)[0]
            if low < 0:
                raise ValueError(f"{name} {low} is a factor and must not be below 0")
        return self


class GaussianBlur(Operation):
    """Blur with a Gaussian of random width."""

    op: Literal["gaussian_blur"] = "gaussian_blur"
    sigma: Bounds = (0.1, 2.0)
    """Standard deviation in pixels."""
    p: Probability = 1.0
    """Probability of blurring at all."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sigma[0] <= 0:
            raise ValueError(f"sigma {list(self.sigma)} must be above 0")
        return self


class Erase(Operation):
    """Black out a random rectangle."""

    op: Literal["erase"] = "erase"
    p: Probability = 0.25
    """Probability of erasing at all."""
    area: Bounds = (0.02, 0.33)
    """Share of the image's area."""
    ratio: Bounds = (0.3, 3.3)
    """Width over height of the rectangle."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.area[0] <= 0 or self.area[1] > 1:
            raise ValueError(f"area {list(self.area)} must lie above 0 and not above 1")
        if self.ratio[0] <= 0:
            raise ValueError(f"ratio {list(self.ratio)} must be above 0")
        return self


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
    mean: Annotated[tuple[float, ...], BeforeValidator(as_tuple)] | None = None
    """Per channel on the 0..1 scale; measured on the train split when left out."""
    std: Annotated[tuple[float, ...], BeforeValidator(as_tuple)] | None = None
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
