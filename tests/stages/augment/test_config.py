"""What a user may write about data, and what is said when it is wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from stages.augment.config import AugmentConfig
from stages.augment.datasets import FolderDataset


def read(**settings: object) -> AugmentConfig:
    return AugmentConfig.model_validate(settings)


def test_what_was_read_reads_again_as_the_same() -> None:
    for dataset in (
        "digits",
        {"folder": "x"},
        {"idx": "x", "classes": ["a", "b"]},
        {"webdataset": "x", "eval": "y"},
    ):
        config = read(dataset=dataset, size=[20, 30], train=["flip"], eval=["resize"])
        again = AugmentConfig.model_validate_json(config.model_dump_json())
        assert again == config
    assert read(dataset={"folder": "x"}).dataset == FolderDataset(folder="x")


def test_one_number_is_both_sides() -> None:
    assert read(dataset="digits", size=28).size == (28, 28)
    assert read(dataset="digits", size=[28, 32]).size == (28, 32)
    assert read(dataset="digits").size == "auto"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "digit"}, "Did you mean 'digits'?"),
        ({"dataset": {"foldr": "x"}}, "Did you mean 'folder'?"),
        ({"dataset": {"folder": "x", "idx": "y"}}, "2 of these keys"),
        ({"dataset": {}}, "0 of these keys"),
        ({"dataset": 7}, "7 is no data set"),
        ({"dataset": {"folder": "x", "evl": "y"}}, "Extra inputs"),
        ({"dataset": {"webdataset": "x"}}, "Field required"),
        ({"dataset": "digits", "size": "28"}, "'28' is no size"),
        ({"dataset": "digits", "size": [28, 28, 3]}, "is no size"),
        ({"dataset": "digits", "size": True}, "True is no size"),
        ({"dataset": "digits", "size": 0}, "from 4 to 4096"),
        ({"dataset": "digits", "batch_size": 0}, "greater than or equal to 1"),
        ({"dataset": "digits", "batch_size": "8"}, "valid integer"),
        ({"dataset": "digits", "eval_share": 1.0}, "less than 1"),
        ({"dataset": "digits", "calibration": {"samples": 0}}, "greater than or equal to 1"),
        ({"dataset": "digits", "on_error": "ignore"}, "'skip' or 'fail'"),
        ({"dataset": "digits", "eval": ["flip"]}, "is random"),
        ({"dataset": "digits", "train": ["flp"]}, "Did you mean 'flip'?"),
    ],
)
def test_a_wrong_setting_is_explained(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**settings)
    assert said in str(caught.value)
    assert caught.value.error_count() == 1


def test_two_normalizations_are_one_too_many() -> None:
    given = {"normalize": {"mean": [0.5], "std": [0.5]}}
    with pytest.raises(ValidationError, match="Say it once"):
        read(dataset="digits", mean_std="imagenet", eval=[given])
    other = {"normalize": {"mean": [0.4], "std": [0.5]}}
    with pytest.raises(ValidationError, match="other values in train"):
        read(dataset="digits", train=[other], eval=[given])
