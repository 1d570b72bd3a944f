"""View: how much of an image eval operations leave for the model to see."""

from __future__ import annotations

from collections.abc import Sequence

from stages.augment.operations import CenterCrop, Resize
from stages.augment.spec import Operation

CROP_SHARE = 0.875
"""Share of the shorter side that eval keeps of a photograph, as ImageNet's protocols do."""
_LEAST_SHARE = 0.6
"""Keeping less is seldom meant: it comes of a size that was changed alone."""


def narrow_view(operations: Sequence[Operation], *, height: int, width: int) -> str:
    """Say that the middle is cut out of images far larger than it; ``""``: enough is kept."""
    shorter: int | None = None  # of the image so far; None where only its file could tell
    for operation in operations:
        match operation:
            case Resize(shorter=side):
                shorter = min(height, width) if side is None else side
            case CenterCrop(size=side):
                crop = max(height, width) if side is None else side
                if shorter is not None and crop < _LEAST_SHARE * shorter:
                    return _narrow(shorter, crop, of_target=side is None)
                shorter = crop
    return ""


def _narrow(shorter: int, crop: int, *, of_target: bool) -> str:
    source = "the target's size, " if of_target else ""
    return (
        f"images are resized to a shorter side of {shorter}, and center_crop keeps {crop} of it "
        f"({source}{crop / shorter:.0%}): accuracy is measured on the middle alone, and the served "
        f"model sees no more. Usual is {CROP_SHARE:.1%}: use resize: "
        f"{{shorter: {round(crop / CROP_SHARE)}}}, or leave eval out for a choice that fits."
    )
