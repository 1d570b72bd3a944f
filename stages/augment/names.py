"""Names of operations: which there are, and which of them fit images or clips of sound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from pipeline.errors import choices
from stages.augment.audio.operations import AudioOperation
from stages.augment.operations import AnyOperation, Operation


def name_of(operation: Operation | type[Operation]) -> str:
    """Return the name that an operation has in the YAML."""
    kind = operation if isinstance(operation, type) else type(operation)
    return str(kind.model_fields["op"].default)


def _by_name(kinds: Iterable[type[Operation]]) -> dict[str, type[Operation]]:
    return {name_of(kind): kind for kind in kinds}


_FOR_IMAGES = _by_name(get_args(AnyOperation))
_FOR_CLIPS = _by_name(get_args(AudioOperation))
OPERATIONS = _FOR_IMAGES | _FOR_CLIPS
"""Every operation by the name it has in the YAML."""
_FOR_BOTH = ("normalize", "mixup", "cutmix")
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
"""What does to clips about what this does to images, and the other way round."""


def misplaced(operations: Iterable[Operation], *, audio: bool) -> str:
    """Say which operation does not fit the data; an empty string: none.

    Args:
        operations: of a transform list.
        audio: whether the data set holds clips of sound, and not images.
    """
    allowed = [*_FOR_CLIPS, *_FOR_BOTH] if audio else [*_FOR_IMAGES]
    wrong = next((n for o in operations if (n := name_of(o)) not in allowed), "")
    if not wrong:
        return ""
    theirs, ours = ("images", "clips of sound") if audio else ("clips of sound", "images")
    likes = _COUNTERPARTS.get(wrong, ())
    hint = f" Did you mean {choices(likes)}?" if likes else ""
    return (
        f"{wrong!r} works on {theirs}, and the data set holds {ours}. "
        f"Allowed: {choices(allowed)}.{hint}"
    )
