"""What is found before anything runs, where one stage's settings have to go with another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.check import check_chain, load_checked
from pipeline.config import ChainConfig, load_config
from pipeline.device import CPU
from pipeline.errors import ConfigError, Problem

CHAIN = """\
name: two
stages:
  - augment: {dataset: {text: table.csv}}
  - pictures: {uses: augment, dataset: digits}
  - train:
      inputs: [augment]
      model: resnet18
  - student: {uses: train, inputs: [pictures], model: resnet18}
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("text,label\nso it is,yes\nit is not,no\n")
    (tmp_path / "two.yaml").write_text(CHAIN)
    return tmp_path / "two.yaml"


def problems(chain: ChainConfig, **chosen: object) -> list[Problem]:
    with pytest.raises(ConfigError, match=r"stages\.train\.model: ") as caught:
        check_chain(chain, CPU, **chosen)
    return list(caught.value.problems)


def test_a_model_for_images_is_refused_where_the_data_set_holds_texts(path: Path) -> None:
    chain = load_config(path)
    [problem] = problems(chain)
    assert (problem.path, problem.line) == ("stages.train.model", 7)
    assert "'resnet18' has no colon and so is a name of timm" in problem.message
    assert "Use stages.train.models.text:encoder, or your own" in problem.message
    assert problems(chain, entries=chain.stages[2:3]) == [problem]  # as run --from train checks


def test_a_model_for_texts_goes_with_texts(path: Path) -> None:
    chain = load_config(path, ["stages.train.model=stages.train.models.text:encoder"])
    assert [item.stage for item in check_chain(chain, CPU)] == ["augment", "pictures"]


def test_a_name_that_timm_does_not_know_is_told_as_what_it_is(path: Path) -> None:
    chain = load_config(path, ["stages.train.model=encoder", "stages.student.model=encoder"])
    ours, other = problems(chain)
    assert "the data set holds texts" in ours.message
    assert "is no model of timm" in other.message


def test_it_is_told_together_with_what_is_wrong_elsewhere(path: Path) -> None:
    with pytest.raises(ConfigError, match="the data set holds texts") as caught:
        load_checked(path, ["stages.student.epochs=many"])
    assert {problem.path for problem in caught.value.problems} == {
        "stages.student.epochs", "stages.train.model",
    }  # fmt: skip
