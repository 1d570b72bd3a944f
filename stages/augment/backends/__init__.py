"""Backends of the augment stage: what decodes and transforms samples, best first."""

from __future__ import annotations

from pipeline.artifacts import Kind
from pipeline.backend import Backend, is_installed, select
from pipeline.device import Device

IMAGE_BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="dali-gpu",
        module="stages.augment.backends.dali",
        summary="NVIDIA DALI with nvJPEG and GPU operators",
        needs=("nvidia.dali",),
        extra="dali",
        device="cuda",
    ),
    Backend(
        name="dali-cpu",
        module="stages.augment.backends.dali",
        summary="NVIDIA DALI, the same graph on CPU operators",
        needs=("nvidia.dali",),
        extra="dali",
    ),
    Backend(
        name="torchvision",
        module="stages.augment.backends.torchvision",
        summary="libjpeg-turbo and torch, image by image; scaled decoding of large JPEGs",
        needs=("torchvision",),
    ),
    Backend(
        name="array",
        module="stages.augment.backends.array",
        summary="torch on whole batches of small images that are held in memory",
        needs=("torch",),
    ),
)
AUDIO_BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="dali-gpu",
        module="stages.augment.backends.dali_audio",
        summary="NVIDIA DALI: decoded on the CPU, spectrograms on the GPU",
        needs=("nvidia.dali", "soundfile"),
        extra="dali,audio",
        device="cuda",
    ),
    Backend(
        name="dali-cpu",
        module="stages.augment.backends.dali_audio",
        summary="NVIDIA DALI, the same graph on CPU operators",
        needs=("nvidia.dali", "soundfile"),
        extra="dali,audio",
    ),
    Backend(
        name="soundfile",
        module="stages.augment.backends.soundfile",
        summary="clips of sound: libsndfile decodes, torch makes spectrograms",
        needs=("soundfile",),
        extra="audio",
    ),
)
TEXT_BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="tokens",
        module="stages.augment.backends.tokens",
        summary="texts: tokenizers splits them once, batches are as long as their longest",
        needs=("tokenizers",),
        extra="text",
    ),
)
BACKENDS = (*IMAGE_BACKENDS, AUDIO_BACKENDS[-1], *TEXT_BACKENDS)
"""Every name that ``backend:`` may have."""


def backends_for(kind: Kind) -> tuple[Backend, ...]:
    """Return what can read samples of that kind."""
    return {"image": IMAGE_BACKENDS, "audio": AUDIO_BACKENDS, "text": TEXT_BACKENDS}[kind]


_TINY_PIXELS = 64
_HELD_BYTES = 1 << 30
_REDUCED_DECODE_FROM = 4.0
"""How many times the target a photo has to be before the torchvision backend decodes it reduced."""


def choose_backend(
    choice: str,
    device: Device,
    *,
    reader: str,
    source_size: tuple[int, int],
    target: tuple[int, int],
    samples: int = 0,
    crops: bool = False,
    jpeg: bool = True,
    geometry_only: bool = False,
    where: str = "stages.augment.backend",
) -> tuple[str, str]:
    """Resolve ``auto`` by what the data looks like; return the name and, in a sentence, why.

    Args:
        choice: ``auto``, or the name of a backend, which is only checked.
        device: where the work would be done.
        reader: ``folder``, ``array`` or ``webdataset``.
        source_size: height and width of a typical image of the data set.
        target: height and width that loaders hand over.
        samples: images in the data set.
        crops: whether training cuts out random parts, so that whole photos are not what is needed.
        jpeg: whether most files are JPEGs.
        geometry_only: whether training does no more than cut, stretch and mirror.
        where: the place in the YAML, for messages.

    Raises:
        BackendUnavailable: the named backend cannot run here.
    """
    if choice != "auto":
        name = select(IMAGE_BACKENDS, choice, device, where=where).backend.name
        return name, f"backend {name} is named in the configuration"
    height, width = source_size
    if reader == "array":
        return "array", "backend array: the data set is one array, transformed in whole batches"
    if max(source_size) <= _TINY_PIXELS and samples * height * width * 3 <= _HELD_BYTES:
        return "array", (
            f"backend array: images of {width}x{height} fit in memory, and whole batches of "
            "them are transformed faster than single ones"
        )
    excess = min(height / target[0], width / target[1])
    if device.kind == "cpu" and jpeg and not crops and excess >= _REDUCED_DECODE_FROM:
        return "torchvision", (
            f"backend torchvision: {width}x{height} photos are {excess:.1f} times the target: it "
            "decodes JPEGs at a reduced scale, which DALI does not"
        )
    if device.kind == "cpu" and jpeg and geometry_only and is_installed("simplejpeg"):
        return "torchvision", (
            "backend torchvision: for JPEGs that are only cut, stretched and mirrored, "
            "libjpeg-turbo and torch's resize are faster than DALI's CPU operators"
        )
    selection = select(IMAGE_BACKENDS, "auto", device, where=where)
    return selection.backend.name, selection.reason
