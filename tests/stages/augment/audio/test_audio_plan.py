"""The numbers of a batch: within their bounds, one stream an operation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.augment.audio.features import AudioFeatures
from stages.augment.audio.plan import AudioPlan, draw_audio, make_audio_plan, needed_draws
from stages.augment.spec import TransformSpec

FEATURES = AudioFeatures(seconds=0.4, mels=32)
NAMES = ("speed", "random_crop", "time_shift", "gain", "noise", "time_mask", "frequency_mask")


def plan(*train: object) -> AudioPlan:
    spec = TransformSpec.model_validate({"train": train, "audio": FEATURES})
    return make_audio_plan(FEATURES, spec.train)


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), unique=True), st.sampled_from(NAMES), st.integers(0, 99))
def test_one_operation_more_leaves_the_numbers_of_the_others_alone(
    names: list[str], more: str, seed: int
) -> None:
    few = draw_audio(plan(*(n for n in names if n != more)), 5, (seed,))
    many = draw_audio(plan(*(n for n in names if n != more), more), 5, (seed,))
    for name, values in few.items():
        if not name.startswith("mask"):
            assert np.array_equal(values, many[name])


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), unique=True))
def test_what_is_drawn_is_what_is_needed(names: list[str]) -> None:
    drawn = draw_audio(plan(*names), 3, (1,))
    assert {name: values.ndim - 1 for name, values in drawn.items()} == needed_draws(plan(*names))


def test_numbers_keep_to_their_bounds() -> None:
    drawn = draw_audio(
        plan(
            {"speed": {"factor": 0.2}}, {"gain": {"decibels": [-6, 0]}},
            {"time_shift": {"seconds": 0.05}}, {"noise": {"snr": [20, 20], "p": 0.5}},
        ),
        400, (0,),
    )  # fmt: skip
    assert 0.8 <= drawn["speed"].min() < 0.85 < 1.15 < drawn["speed"].max() <= 1.2
    assert 0.501 <= drawn["gain"].min() <= drawn["gain"].max() <= 1
    assert np.abs(drawn["shift"]).max() <= 800
    assert set(np.unique(drawn["noise_level"].round(4))) == {0, np.float32(0.1)}


@pytest.mark.parametrize("count", [1, 3])
def test_masks_lie_within_the_spectrogram(count: int) -> None:
    masks = draw_audio(
        plan(
            {"time_mask": {"seconds": 0.1, "count": count}},
            {"frequency_mask": {"bands": 99, "count": count}},
        ),
        300, (0,),
    )  # fmt: skip
    corner = masks["mask_anchor"].reshape(300, 2 * count, 2)
    size = masks["mask_shape"].reshape(300, 2 * count, 2)
    assert corner.min() >= 0
    assert ((corner + size).reshape(-1, 2) <= (FEATURES.mels, FEATURES.frames)).all()
    assert size[:, 0, 1].max() == 10  # frames of 10 ms
    assert size[:, count, 0].max() == FEATURES.mels
