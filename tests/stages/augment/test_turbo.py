"""The fast decoder of JPEGs, against Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.augment.backends.torchvision import transform_file
from stages.augment.backends.turbo import transform_jpeg
from stages.augment.encoded import read_header
from stages.augment.operations import CenterCrop, Decode, RandomResizedCrop
from stages.augment.plan import Plan, draw, make_plan


def jpeg(height: int, width: int, *, mode: str = "RGB", subsampling: int = 2) -> bytes:
    draw = np.random.default_rng(height * width)
    coarse = draw.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(coarse).resize((width, height)).convert(mode)
    image.save(file, "JPEG", quality=90, **({"subsampling": subsampling} if mode == "RGB" else {}))
    return file.getvalue()


def plan_of(channels: int, *, scaled: bool = True) -> Plan:
    operations = [Decode(scaled=scaled), RandomResizedCrop()]
    return make_plan(operations, height=24, width=16, channels=channels)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(20, 400), width=st.integers(20, 400), mode=st.sampled_from(["RGB", "L"]),
    subsampling=st.sampled_from([0, 1, 2]), channels=st.sampled_from([1, 3]),
    scaled=st.booleans(), seed=st.integers(0, 100),
)  # fmt: skip
def test_both_decoders_give_the_same_pixels(
    height, width, mode, subsampling, channels, scaled, seed
):
    file = jpeg(height, width, mode=mode, subsampling=subsampling)
    plan = plan_of(channels, scaled=scaled)
    placement = draw(plan, np.array([[height, width]]), (seed,)).placement
    assert torch.equal(transform_jpeg(file, plan, placement), transform_file(file, plan, placement))


def test_images_do_not_share_the_memory_that_they_were_decoded_in():
    plan = make_plan([CenterCrop()], height=40, width=30, channels=3)
    placement = draw(plan, np.array([[40, 30]]), (0,)).placement
    first = transform_jpeg(jpeg(40, 30), plan, placement)
    before = first.clone()
    transform_jpeg(jpeg(40, 30, subsampling=0), plan, placement)
    assert torch.equal(first, before)


def test_a_truncated_file_is_damaged_for_both():
    file = jpeg(100, 120)[:-600]
    plan = make_plan([CenterCrop()], height=24, width=16, channels=3)
    placement = draw(plan, np.array([[100, 120]]), (0,)).placement
    with pytest.raises(OSError, match="truncated"):
        transform_jpeg(file, plan, placement)


def test_garbage_inside_a_file_is_what_pillow_takes_it_for():
    whole = jpeg(100, 120)
    middle = len(whole) // 2
    file = whole[:middle] + bytes(20) + whole[middle + 20 :]
    plan = plan_of(3)
    placement = draw(plan, np.array([[100, 120]]), (0,)).placement
    assert torch.equal(transform_jpeg(file, plan, placement), transform_file(file, plan, placement))


@pytest.mark.parametrize(
    ("mode", "orientation", "plain"),
    [("RGB", 1, True), ("L", 1, True), ("RGB", 6, False), ("CMYK", 1, False)],
)
def test_only_upright_gray_and_ycbcr_files_take_the_fast_way(mode, orientation, plain):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new(mode, (30, 20)).save(file, "JPEG", exif=exif)
    header = read_header(file.getvalue())
    assert header.plain_jpeg is plain
    assert (header.height, header.width) == ((30, 20) if orientation == 6 else (20, 30))
