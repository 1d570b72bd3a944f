"""Generated photos: as large as real ones, and the same each time."""

from __future__ import annotations

import numpy as np

from benchmarks.photos import canvas, mean_kilobytes, small_images, write_photos


def test_photos_are_as_heavy_as_real_ones_and_spread_over_the_classes(tmp_path):
    photos = write_photos(tmp_path, 8)
    assert 80 < mean_kilobytes(photos) < 110
    assert [photo.label for photo in photos] == [0, 1, 2, 3] * 2
    assert len(list(tmp_path.glob("class_*/*.jpg"))) == 8


def test_the_same_seed_draws_the_same_and_another_draws_another():
    assert np.array_equal(canvas(1, 20, 30), canvas(1, 20, 30))
    assert not np.array_equal(canvas(1, 20, 30), canvas(2, 20, 30))


def test_fine_detail_is_weaker_than_coarse():
    pixels = canvas(0, 256, 256)[..., 0].astype(float)
    power = np.abs(np.fft.rfft2(pixels - pixels.mean())) ** 2
    assert power[1:8, 1:8].mean() > 100 * power[100:128, 100:128].mean()


def test_small_images_have_the_shape_asked_for():
    assert small_images(0, 5, 28, 1).shape == (5, 28, 28, 1)
