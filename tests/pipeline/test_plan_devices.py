"""`dlpipe plan --devices`: any stage may answer, from what was left or from what is foretold."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main

CHAIN = """
name: toy
stages:
  - write: {uses: "planning_stage:Foretold", words: [one, two, three]}
  - think: {uses: "planning_stage:Planning"}
"""
ASK = ["--devices", "4", "--memory", "1KiB"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(CHAIN)


def test_a_stage_answers_before_anything_ran_and_nothing_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "toy.yaml", *ASK]) == 0
    out = capfd.readouterr().out
    for told in ("Words", "4      3", "of 1024 bytes", "words: 3", "Drawn: see the report"):
        assert told in out
    assert "Nothing was written." in out
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]


def test_what_an_earlier_run_left_goes_before_what_is_foretold(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "toy.yaml", "--until", "write", "stages.write.words=[one]"]) == 0
    assert main(["plan", "toy.yaml", *ASK]) == 0
    assert "words: 1" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--devices", "4"], "--devices and --memory belong together"),
        (["--memory", "1GB"], "--devices and --memory belong together"),
        (["--devices", "0", "--memory", "1GB"], "--devices: 0 compute nothing"),
        (["--devices", "2", "--memory", "much"], "--memory: 'much' is no size"),
        (["--devices", "2", "--memory", "16"], "16 is that many bytes. Give a unit, such as 16GB"),
        (["--devices", "2", "--memory", "0"], "0 is that many bytes. Give a unit, such as 16GB"),
        ([*ASK, "stages.write.style=unknown"], "Run `dlpipe run toy.yaml --until write` first"),
    ],
)
def test_what_is_missing_is_told(
    arguments: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "toy.yaml", *arguments]) == 2
    assert expected in capfd.readouterr().err


def test_a_chain_without_such_a_stage_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.yaml").write_text(CHAIN.rpartition("  - think")[0])
    assert main(["plan", "toy.yaml", *ASK]) == 2
    assert "no stage of this chain plans devices" in capfd.readouterr().err
