"""Where pixels come from, and the random numbers of a batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.augment.geometry import Placement, place
from stages.augment.operations import Affine, Flip, Geometry, RandomResizedCrop, Resize, Rotate
from stages.augment.plan import draw, make_plan
from stages.augment.spec import TransformSpec

sides = st.integers(1, 300)
sizes_of_images = st.lists(st.tuples(sides, sides), min_size=1, max_size=6)
geometry_names = st.lists(
    st.sampled_from(["random_resized_crop", "resize", "center_crop", "flip", "rotate", "affine"]),
    max_size=4,
)


def draw_placement(
    operations: list[Geometry], sizes: NDArray[np.int64], target: tuple[int, int] = (32, 40)
) -> Placement:
    return place(operations, sizes, target=target, rng=np.random.default_rng(0))


@given(geometry_names, sizes_of_images, sides, sides)
def test_every_box_lies_inside_its_image(
    names: list[str], sizes: list[tuple[int, int]], height: int, width: int
) -> None:
    operations = TransformSpec.model_validate({"train": names}).train
    plan = make_plan(operations, height=height, width=width, channels=3)
    limits = np.array(sizes, dtype=np.int64)
    placement = draw(plan, limits, (1, 2)).placement
    x0, y0, x1, y1 = placement.box.T
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 > x0).all()
    assert (y1 > y0).all()
    assert (x1 <= limits[:, 1]).all()
    assert (y1 <= limits[:, 0]).all()
    assert (placement.matrix is not None) == plan.warped


@given(st.integers(0, 10), st.integers(0, 10))
def test_a_batch_is_a_pure_function_of_its_key(seed: int, number: int) -> None:
    train = ["random_resized_crop", "flip", "rotate", "color_jitter", "erase", "rand_augment"]
    plan = make_plan(
        TransformSpec.model_validate({"train": train}).train, height=16, width=16, channels=3
    )
    sizes = np.full((4, 2), 50)
    one, two = draw(plan, sizes, (seed, number)), draw(plan, sizes, (seed, number))
    other = draw(plan, sizes, (seed, number + 1))
    assert np.array_equal(one.placement.box, two.placement.box)
    assert all(np.array_equal(a, b) for a, b in zip(one.pixel, two.pixel, strict=True))
    assert not np.array_equal(one.pixel[0], other.pixel[0]) or not np.array_equal(
        one.placement.matrix, other.placement.matrix
    )


def test_a_pixel_operation_more_leaves_the_crops_alone() -> None:
    boxes = []
    for train in (["random_resized_crop"], ["random_resized_crop", "erase"]):
        operations = TransformSpec.model_validate({"train": train}).train
        plan = make_plan(operations, height=16, width=16, channels=3)
        boxes.append(draw(plan, np.full((9, 2), 80), (3,)).placement.box)
    assert np.array_equal(*boxes)


def test_random_crops_have_the_stated_area_and_ratio() -> None:
    sizes = np.tile([300, 400], (4000, 1))
    box = draw_placement([RandomResizedCrop(scale=(0.2, 0.6))], sizes).box
    width, height = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    share = width * height / (300 * 400)
    assert 0.19 < share.min() < 0.25
    assert 0.55 < share.max() < 0.61
    assert abs(share.mean() - 0.4) < 0.02
    ratio = width / height
    assert 0.74 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.35
    assert abs((box[:, 0] + box[:, 2]).mean() / 2 - 200) < 5


def test_flips_happen_as_often_as_stated() -> None:
    flip = draw_placement([Flip(horizontal=0.3, vertical=0.7)], np.full((4000, 2), 9)).flip
    assert np.allclose(flip.mean(axis=0), [0.3, 0.7], atol=0.03)


def test_two_flips_cancel() -> None:
    flips: list[Geometry] = [Flip(horizontal=1.0), Flip(horizontal=1.0)]
    assert not draw_placement(flips, np.full((3, 2), 9)).flip.any()


def test_a_warp_maps_the_centre_to_the_centre() -> None:
    sizes = np.array([[60, 80], [33, 20]])
    operations: list[Geometry] = [
        Rotate(degrees=(37.0, 37.0)),
        Affine(degrees=(0.0, 0.0), scale=(1.2, 1.2), shear=(8.0, 8.0)),
        Resize(),
    ]
    placement = draw_placement(operations, sizes, (32, 40))
    assert placement.matrix is not None
    assert placement.inner is not None
    centre = placement.matrix @ np.array([20.0, 16.0, 1.0])
    part = placement.box[:, 2:] - placement.box[:, :2]
    in_source = centre / placement.inner[:, ::-1] * part + placement.box[:, :2]
    assert np.allclose(in_source, sizes[:, ::-1] / 2, atol=1e-3)


def test_what_is_shrunk_is_filtered_first() -> None:
    placement = draw_placement([Rotate(degrees=(45.0, 45.0))], np.array([[320, 400]]), (32, 40))
    assert placement.inner is not None
    part = placement.box[:, [3, 2]] - placement.box[:, [1, 0]]
    assert np.allclose(part / placement.inner, 10, rtol=0.05)
