"""AudioPlan: a transform list for clips made ready to run, with the random numbers of a batch.

As for images, every number is drawn here and none inside a backend: so all backends make the
same spectrogram from the same seed, and a loader's position is a few integers.

Shapes: N clips, T samples of a clip, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stages.augment.audio.features import AudioFeatures
from stages.augment.audio.operations import (
    AudioOperation,
    FrequencyMask,
    Gain,
    Mask,
    Noise,
    RandomCrop,
    Speed,
    TimeMask,
    TimeShift,
)
from stages.augment.operations import Cutmix, Mixup, Operation

AudioDraws = dict[str, NDArray[np.float32]]
"""The random numbers of a batch by name, a row for each clip; a name is there if it is needed:

speed (N,) factor; place (N,) 0 first part, 1 last part; shift (N,) samples later; gain (N,)
factor; noise_level (N,) share of the clip's own level; noise (N, T); mask_anchor and mask_shape
(N, 2 M) row, column and height, width of each mask.
"""

_O = TypeVar("_O", bound=Operation)
_STREAMS: tuple[type[Operation], ...] = (
    Speed, RandomCrop, TimeShift, Gain, Noise, TimeMask, FrequencyMask,
)  # fmt: skip
"""Each operation has random numbers of its own: one more in the list leaves the others alone."""
_MASK = {"mask_anchor": 1, "mask_shape": 1}
_NEEDS: dict[type[Operation], dict[str, int]] = {
    Speed: {"speed": 0}, RandomCrop: {"place": 0}, TimeShift: {"shift": 0}, Gain: {"gain": 0},
    Noise: {"noise_level": 0, "noise": 1}, TimeMask: _MASK, FrequencyMask: _MASK,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioPlan:
    """What to do to each clip."""

    features: AudioFeatures
    operations: tuple[AudioOperation, ...]
    mixing: tuple[Mixup | Cutmix, ...]

    @property
    def height(self) -> int:
        """Bands."""
        return self.features.mels

    @property
    def width(self) -> int:
        """Frames."""
        return self.features.frames

    @property
    def channels(self) -> int:
        """One, as in a gray image."""
        return 1

    def get(self, kind: type[_O]) -> _O | None:
        """Return the operation of this kind, if the list has it."""
        return next((o for o in self.operations if isinstance(o, kind)), None)

    @property
    def masks(self) -> tuple[Mask, ...]:
        """What silences parts of the spectrogram."""
        return tuple(o for o in self.operations if isinstance(o, Mask))


def make_audio_plan(features: AudioFeatures, operations: Sequence[Operation]) -> AudioPlan:
    """Sort a transform list into what backends run."""
    return AudioPlan(
        features=features,
        operations=tuple(o for o in operations if isinstance(o, AudioOperation)),
        mixing=tuple(o for o in operations if isinstance(o, Mixup | Cutmix)),
    )


def needed_draws(plan: AudioPlan) -> dict[str, int]:
    """Return the names of `AudioDraws` that a plan needs, each with the axes of one row."""
    needed: dict[str, int] = {}
    for operation in plan.operations:
        needed |= _NEEDS[type(operation)]
    return needed


def draw_audio(plan: AudioPlan, n: int, key: Sequence[int]) -> AudioDraws:
    """Draw what a batch of n clips needs: a pure function of plan, n and key.

    Args:
        plan: what is going to run.
        n: clips in the batch.
        key: names the batch, for instance (seed, epoch, rank, number).
    """
    streams = dict(
        zip(_STREAMS, np.random.default_rng(list(key)).spawn(len(_STREAMS)), strict=True)
    )
    drawn: dict[str, NDArray[np.generic]] = {}
    masks: list[NDArray[np.float64]] = []
    for operation in plan.operations:
        rng, features = streams[type(operation)], plan.features
        match operation:
            case Speed(factor=bounds):
                drawn["speed"] = rng.uniform(*bounds, n)
            case RandomCrop():
                drawn["place"] = rng.random(n)
            case TimeShift(seconds=bounds):
                drawn["shift"] = np.round(rng.uniform(*bounds, n) * features.sample_rate)
            case Gain(decibels=bounds):
                drawn["gain"] = 10 ** (rng.uniform(*bounds, n) / 20)
            case Noise(snr=bounds, p=p):
                level = 10 ** (-rng.uniform(*bounds, n) / 20)
                drawn["noise_level"] = np.where(rng.random(n) < p, level, 0)
                drawn["noise"] = rng.standard_normal((n, features.num_samples), dtype=np.float32)
            case TimeMask() | FrequencyMask():
                masks += [_draw_mask(operation, features, n, rng) for _ in range(operation.count)]
    if masks:
        boxes = np.stack(masks, axis=1)  # (N, M, 4)
        drawn["mask_anchor"] = boxes[:, :, :2].reshape(n, -1)
        drawn["mask_shape"] = boxes[:, :, 2:].reshape(n, -1)
    return {name: values.astype(np.float32) for name, values in drawn.items()}


def _draw_mask(
    mask: Mask, features: AudioFeatures, n: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw row, column, height and width of a stripe through the spectrogram: (N, 4)."""
    if isinstance(mask, TimeMask):
        whole, widest = features.frames, round(mask.seconds * 1000 / features.hop_ms)
    else:
        whole, widest = features.mels, mask.bands
    size = rng.integers(0, min(widest, whole) + 1, n).astype(np.float64)
    start = np.floor(rng.random(n) * (whole - size + 1))
    none = np.zeros(n)
    if isinstance(mask, TimeMask):
        return np.column_stack([none, start, none + features.mels, size])
    return np.column_stack([start, none, size, none + features.frames])
