from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.overrides import apply_overrides
from pipeline.yaml_source import parse_yaml

TEXT = """\
name: a
stages:
  - train: {epochs: 1, sizes: [1, 2]}
  - export
"""


def apply(*overrides: str) -> object:
    return apply_overrides(parse_yaml(TEXT, file="t"), overrides).plain()


def test_a_stage_is_addressed_by_its_name_and_values_keep_their_types() -> None:
    result = apply("stages.train.epochs=3", "stages.train.lr=1e-3", 'name="3"')
    assert result == {
        "name": "3",
        "stages": [{"train": {"epochs": 3, "sizes": [1, 2], "lr": 0.001}}, "export"],
    }


def test_missing_mappings_are_made_on_the_way() -> None:
    result = apply("stages.train.target.top1=0.9", "stages.export.opset=20")
    assert isinstance(result, dict)
    assert result["stages"] == [
        {"train": {"epochs": 1, "sizes": [1, 2], "target": {"top1": 0.9}}},
        {"export": {"opset": 20}},
    ]


def test_a_list_item_is_addressed_by_its_number() -> None:
    result = apply("stages.train.sizes.1=5")
    assert isinstance(result, dict)
    assert result["stages"][0] == {"train": {"epochs": 1, "sizes": [1, 5]}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.trian.epochs=3", "'trian' is not in the list.*Did you mean 'train'"),
        ("epochs", "is no override"),
        ("=3", "is no override"),
        ("a..b=3", "is no override"),
        ("name.first=x", "'first' cannot be set.*'a'. Replace the value: name='{first: ...}'"),
        ("train.epochs=3", "'train' is a stage. Did you mean 'stages.train.epochs'"),
        ("stages.train.epochs=[1", "malformed YAML"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply(override)


def test_all_wrong_overrides_are_reported_together() -> None:
    with pytest.raises(ConfigError, match="no override") as caught:
        apply("a", "b")
    assert len(caught.value.problems) == 2
