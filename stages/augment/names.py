"""Names of operations: which there are, and which of them fit images, clips of sound or texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from pipeline.artifacts import Kind
from pipeline.errors import choices
from stages.augment.audio.operations import AudioOperation
from stages.augment.operations import AnyOperation, Operation
from stages.augment.text.operations import TextOperation


def name_of(operation: Operation | type[Operation]) -> str:
    """Return the name that an operation has in the YAML."""
    kind = operation if isinstance(operation, type) else type(operation)
    return str(kind.model_fields["op"].default)


def _by_name(kinds: Iterable[type[Operation]]) -> dict[str, type[Operation]]:
    return {name_of(kind): kind for kind in kinds}


_FOR_IMAGES = _by_name(get_args(AnyOperation))
_FOR_CLIPS = _by_name(get_args(AudioOperation))
_FOR_TEXTS = _by_name(get_args(TextOperation))
OPERATIONS = _FOR_IMAGES | _FOR_CLIPS | _FOR_TEXTS
"""Every operation by the name it has in the YAML."""
_ALLOWED: dict[Kind, tuple[str, ...]] = {
    "image": (*_FOR_IMAGES,),
    "audio": (*_FOR_CLIPS, "normalize", "mixup", "cutmix"),
    "text": (*_FOR_TEXTS,),
}
THINGS: dict[Kind, str] = {"image": "images", "audio": "clips of sound", "text": "texts"}
"""What data sets of each kind hold, as a person says it."""
_COUNTERPARTS = {
    "erase": ("time_mask", "frequency_mask"),
    "random_resized_crop": ("random_crop",),
    "affine": ("time_shift", "speed"),
    "color_jitter": ("gain",),
    "gaussian_blur": ("noise",),
    "random_crop": ("random_resized_crop",),
    "time_shift": ("affine",),
    "gain": ("color_jitter",),
    "time_mask": ("erase",),
    "frequency_mask": ("erase",),
}
"""What does to the other kind about what this does to images or to clips."""


def misplaced(operations: Iterable[Operation], kind: Kind) -> str:
    """Say which operation does not fit the data; an empty string: none.

    Args:
        operations: of a transform list.
        kind: what the data set holds.
    """
    allowed = _ALLOWED[kind]
    wrong = next((n for o in operations if (n := name_of(o)) not in allowed), "")
    if not wrong:
        return ""
    theirs = next(each for each, names in _ALLOWED.items() if wrong in names)
    likes = [like for like in _COUNTERPARTS.get(wrong, ()) if like in allowed]
    hint = f" Did you mean {choices(likes)}?" if likes else ""
    return (
        f"{wrong!r} works on {THINGS[theirs]}, and the data set holds {THINGS[kind]}. "
        f"Allowed: {choices(allowed)}.{hint}"
    )
