from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.report.compare import compare_runs


@pytest.fixture
def other_dir(run_dir: Path) -> Path:
    """The same run with more epochs, a worse served model and a slower training."""
    other = run_dir.parent / "other"
    shutil.copytree(run_dir, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["stages"][1]["train"] |= {"epochs": 12, "ema": True}
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    record = json.loads((other / "run.json").read_text())
    record["name"] = "[bold]other"
    record["hops"][-1]["top1"] = 0.95
    record["gates"].pop()
    record["stages"][1]["seconds"] = 96.4
    (other / "run.json").write_text(json.dumps(record))
    artifact = {"artifact": {"metrics": {"top1": 0.96, "images_per_s": 3912.4}}}
    (other / "train" / "artifact.json").write_text(json.dumps(artifact))
    return other


def test_settings_that_differ_are_named_by_their_yaml_path(run_dir: Path, other_dir: Path) -> None:
    found = {d.name: (d.a, d.b) for d in compare_runs(run_dir, other_dir).config}
    assert found == {"stages.train.epochs": (8, 12), "stages.train.ema": (None, True)}


def test_measurements_are_set_side_by_side(run_dir: Path, other_dir: Path) -> None:
    comparison = compare_runs(run_dir, other_dir)
    served = next(d for d in comparison.hops if d.name == "deploy: served")
    assert served.change == pytest.approx(-2.21)
    budget = next(d for d in comparison.gates if d.name == "chain: accuracy budget")
    assert (budget.a, budget.b, budget.change) == (0.557, None, None)
    assert [d.name for d in comparison.figures] == ["train.metrics.top1"]
    assert next(d for d in comparison.seconds if d.name == "train").change == pytest.approx(48.2)


def test_a_run_does_not_differ_from_itself(run_dir: Path) -> None:
    comparison = compare_runs(run_dir, run_dir)
    assert comparison.config == comparison.figures == ()
    assert {d.change for d in (*comparison.hops, *comparison.gates, *comparison.seconds)} == {0.0}


def test_the_text_shows_names_as_they_are(run_dir: Path, other_dir: Path) -> None:
    text = compare_runs(run_dir, other_dir).render_text()
    assert "[bold]other" in text
    assert "stages.train.epochs" in text
    assert "\u22122.21" in text
    assert "\x1b" not in text


def test_swapping_the_runs_turns_the_changes_round(run_dir: Path, other_dir: Path) -> None:
    there, back = compare_runs(run_dir, other_dir), compare_runs(other_dir, run_dir)
    assert sorted((d.name, d.a, d.b) for d in there.hops) == sorted(
        (d.name, d.b, d.a) for d in back.hops
    )


def test_an_empty_folder_can_be_compared(tmp_path: Path) -> None:
    assert "do not differ" in compare_runs(tmp_path, tmp_path).render_text()
