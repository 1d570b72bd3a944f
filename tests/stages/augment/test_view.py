"""What eval operations leave of an image, and when that is worth a warning."""

from __future__ import annotations

import pytest

from stages.augment.config import AugmentConfig
from stages.augment.stage import Augment
from stages.augment.view import narrow_view


@pytest.mark.parametrize(
    ("size", "operations", "kept"),
    [
        (96, [{"resize": {"shorter": 256}}, "center_crop"], "38%"),
        (96, [{"resize": {"shorter": 161}}, "center_crop"], "60%"),
        (96, [{"resize": {"shorter": 160}}, "center_crop"], ""),
        (96, [{"resize": {"shorter": 110}}, "center_crop"], ""),
        (224, [{"resize": {"shorter": 256}}, "center_crop"], ""),
        (448, [{"resize": {"shorter": 256}}, "center_crop"], ""),
        ([64, 224], [{"resize": {"shorter": 256}}, "center_crop"], ""),
        (96, [{"resize": {"shorter": 256}}, {"center_crop": {"size": 224}}], ""),
        (224, [{"resize": {"shorter": 256}}, {"center_crop": {"size": 96}}], "38%"),
        (96, [{"resize": {"shorter": 256}}], ""),
        (96, ["resize", {"center_crop": {"size": 48}}], "50%"),
        (96, ["center_crop"], ""),
        (96, [{"center_crop": {"size": 200}}, "resize", "center_crop"], ""),
        (96, ["center_crop", {"center_crop": {"size": 48}}], "50%"),
    ],
)
def test_a_crop_that_keeps_little_of_what_was_resized_is_told(
    size: int | list[int], operations: list[object], kept: str
) -> None:
    config = AugmentConfig.model_validate({"dataset": "digits", "size": size, "eval": operations})
    warnings = Augment(config).warnings()
    assert [warning.path for warning in warnings] == (["eval"] if kept else [])
    assert not kept or kept in warnings[0].message


def test_the_share_that_is_advised_is_enough() -> None:
    for side in (32, 96, 160, 224):
        config = AugmentConfig.model_validate(
            {
                "dataset": "digits",
                "size": side,
                "eval": [{"resize": {"shorter": 999}}, "center_crop"],
            }
        )
        message = narrow_view(config.eval or (), height=side, width=side)
        advised = int(message.partition("{shorter: ")[2].partition("}")[0])
        assert side / advised == pytest.approx(0.875, abs=0.02)


def test_eval_left_out_fits_any_size() -> None:
    config = AugmentConfig.model_validate({"dataset": "digits", "size": 96})
    assert not Augment(config).warnings()
