"""Audio operations: what training may do to a clip, and to its spectrogram.

Their order in the list does not matter: speed, crop and shift come before gain and noise (which
commute: noise is measured against the clip), and masks come last, on the spectrogram.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.augment.operations import Bounds, Factor, Operation, Probability, Spread


class Speed(Operation):
    """Play faster or slower, which moves the pitch as well."""

    op: Literal["speed"] = "speed"
    factor: Factor = (0.9, 1.1)
    """``0.1`` draws a factor from 0.9 to 1.1."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0.25 <= self.factor[0] <= self.factor[1] <= 4:
            raise ValueError(f"factor {list(self.factor)} must lie within 0.25 and 4")
        return self


class RandomCrop(Operation):
    """Take any part of a longer clip instead of its middle; put shorter ones anywhere."""

    op: Literal["random_crop"] = "random_crop"


class TimeShift(Operation):
    """Let the sound come earlier or later."""

    op: Literal["time_shift"] = "time_shift"
    seconds: Spread = (-0.1, 0.1)
    """``0.1`` draws from 0.1 s earlier to 0.1 s later."""


class Gain(Operation):
    """Make louder or quieter."""

    op: Literal["gain"] = "gain"
    decibels: Spread = (-6.0, 6.0)
    """``6`` draws from -6 to 6; 6 dB is a factor of two."""


class Noise(Operation):
    """Add white noise."""

    op: Literal["noise"] = "noise"
    snr: Bounds = (10.0, 40.0)
    """Decibels by which the clip is louder than its noise."""
    p: Probability = 1.0
    """Probability of adding any."""


class TimeMask(Operation):
    """Silence a stretch of time (SpecAugment, Park et al., 2019, section 2)."""

    op: Literal["time_mask"] = "time_mask"
    seconds: float = Field(default=0.1, gt=0.0)
    """Longest stretch; its length is drawn from nothing to this."""
    count: int = Field(default=1, ge=1, le=10)
    """How many stretches."""


class FrequencyMask(Operation):
    """Silence a range of bands (SpecAugment, Park et al., 2019, section 2)."""

    op: Literal["frequency_mask"] = "frequency_mask"
    bands: int = Field(default=8, ge=1)
    """Widest range; its width is drawn from nothing to this."""
    count: int = Field(default=1, ge=1, le=10)
    """How many ranges."""


Mask = TimeMask | FrequencyMask
AudioOperation = Speed | RandomCrop | TimeShift | Gain | Noise | Mask
