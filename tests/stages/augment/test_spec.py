"""The transform spec as users write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import DataError
from stages.augment.audio.operations import AudioOperation
from stages.augment.operations import Flip, RandomResizedCrop, Rotate
from stages.augment.plan import make_plan
from stages.augment.spec import OPERATIONS, TransformSpec
from stages.augment.text.operations import TextOperation

bare_names = st.sampled_from(
    [n for n, kind in OPERATIONS.items() if n not in ("decode", "mixup", "cutmix")
     and not issubclass(kind, AudioOperation | TextOperation)]
)  # fmt: skip


def read(**lists: object) -> TransformSpec:
    return TransformSpec.model_validate(lists)


def test_an_entry_is_a_bare_name_or_a_name_with_options() -> None:
    spec = read(train=[{"random_resized_crop": {"scale": [0.3, 1]}}, "flip", {"rotate": None}])
    assert spec.train == (RandomResizedCrop(scale=(0.3, 1)), Flip(), Rotate())


def test_one_number_is_an_interval_around_its_neutral_value() -> None:
    spec = read(train=[{"rotate": {"degrees": 10}}, {"color_jitter": {"contrast": 0.4}}])
    rotate, jitter = spec.train
    assert rotate.degrees == (-10, 10)  # type: ignore[union-attr]
    assert jitter.contrast == (0.6, 1.4)  # type: ignore[union-attr]


@given(st.lists(bare_names, max_size=6, unique=True), st.booleans())
def test_what_is_written_reads_back_the_same(names: list[str], mixed: bool) -> None:
    spec = read(train=[*names, "mixup"] if mixed else names, eval=["resize"])
    assert TransformSpec.model_validate_json(spec.model_dump_json()) == spec


def test_files_round_trip(tmp_path: Path) -> None:
    spec = read(train=["flip"], eval=[{"resize": {"shorter": 40}}, "center_crop"])
    spec.save(tmp_path / "t.json")
    assert TransformSpec.load(tmp_path / "t.json") == spec
    (tmp_path / "t.json").write_text('{"train": ["flop"]}')
    with pytest.raises(DataError, match="cannot be read"):
        TransformSpec.load(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["flp"]}, "'flp' is no operation.*Did you mean 'flip'"),
        ({"train": [3]}, "3 is no operation"),
        ({"train": [{"flip": 3}]}, "the options of 'flip' are a mapping, not 3"),
        ({"train": [{"flip": {}, "erase": {}}]}, "an entry is one operation"),
        ({"train": [{"flip": {"horizontl": 1}}]}, r"train\.0\.flip\.horizontl\n.*not permitted"),
        ({"train": [{"flip": {"horizontal": 2}}]}, r"train\.0\.flip\.horizontal"),
        ({"train": [{"flip": {"op": "erase"}}]}, "has no option 'op'"),
        ({"train": [{"rotate": {"degrees": [9, 3]}}]}, "lower bound 9.* is above"),
        ({"train": [{"rotate": {"degrees": "10"}}]}, r"train\.0\.rotate\.degrees"),
        ({"train": [{"random_resized_crop": {"scale": [0, 1]}}]}, "must lie above 0"),
        ({"train": [{"color_jitter": {"hue": 5, "contrast": [-1, 1]}}]}, "must not be below 0"),
        ({"train": [{"gaussian_blur": {"sigma": [0, 1]}}]}, "must be above 0"),
        ({"train": [{"affine": {"shear": 90}}]}, "must stay under 90 degrees"),
        ({"train": ["flip", "decode"]}, "'decode' can only stand first"),
        ({"train": ["normalize", "normalize"]}, "stands there 2 times"),
        ({"train": ["mixup", "flip"]}, "Put mixup and cutmix at the end"),
        ({"eval": ["flip"]}, "'flip' is random as it stands"),
        ({"eval": ["random_resized_crop"]}, "eval has to give the same pixels each time"),
    ],
)
def test_what_is_wrong_is_said_and_where(lists: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=rf"(?s){message}"):
        read(**lists)


@pytest.mark.parametrize(
    "entry",
    [
        {"flip": {"horizontal": 1}},
        {"rotate": {"degrees": [5, 5]}},
        {"affine": {"scale": [2, 2]}},
        {"gaussian_blur": {"sigma": [1, 1]}},
        {"color_jitter": {"hue": [5, 5]}},
        "normalize",
    ],
)
def test_eval_takes_what_is_fixed(entry: object) -> None:
    assert len(read(eval=[entry]).eval) == 1


def test_the_schema_offers_every_operation_both_ways() -> None:
    schema = str(TransformSpec.model_json_schema())
    assert all(f"'{name}': {{" in schema for name in OPERATIONS)
    assert str(list(OPERATIONS)) in schema


def test_a_plan_sorts_geometry_before_pixels_and_mixing_last() -> None:
    operations = read(train=["erase", "flip", "color_jitter", "rotate", "cutmix"]).train
    plan = make_plan(operations, height=8, width=8, channels=3)
    assert [o.op for o in plan.geometry] == ["flip", "rotate"]
    assert [o.op for o in plan.pixel] == ["erase", "color_jitter"]
    assert [o.op for o in plan.mixing] == ["cutmix"]
    assert plan.warped
