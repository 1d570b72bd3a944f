"""Every script in examples/ does what its README says; query_the_server: see quickstart."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_stage_of_ones_own_has_its_gate_and_its_chapter(tmp_path: Path, dlpipe) -> None:
    config = "examples/add_a_stage/config.yaml"
    dlpipe("run", config, "stages.classes.worst=0.2", "--runs-dir", tmp_path)
    assert "Accuracy of each class" in (tmp_path / "add_a_stage" / "report.html").read_text()
    done = dlpipe("run", config, "stages.classes.worst=1.0", "--runs-dir", tmp_path, check=3)
    assert "gate failed: classes: worst class" in done.err
    assert "train: cached" in done.err


def test_a_model_of_ones_own_goes_through_export(tmp_path: Path, dlpipe) -> None:
    dlpipe(
        "run", "examples/own_model/config.yaml", "stages.train.epochs=2",
        "stages.train.target=null",
        "stages.train.rehearsal=false", "stages.export.max_drop=100", "--runs-dir", tmp_path,
    )  # fmt: skip
    record = json.loads((tmp_path / "own_model" / "export" / "artifact.json").read_text())
    assert {v["name"] for v in record["artifact"]["variants"]} == {
        "onnxruntime-fp32", "onnxruntime-int8"
    }  # fmt: skip


def test_a_backend_of_ones_own_is_built_proven_and_measured(tmp_path: Path, dlpipe) -> None:
    dlpipe(
        "run", "examples/add_a_backend/config.yaml", "stages.train.epochs=2",
        "stages.train.schedule.warmup_epochs=0", "stages.train.rehearsal=false",
        "stages.export.max_drop=100", "--runs-dir", tmp_path,
    )  # fmt: skip
    record = json.loads((tmp_path / "add_a_backend" / "export" / "artifact.json").read_text())
    variants = {v["name"]: v for v in record["artifact"]["variants"]}
    assert variants["openvino_backend:BACKEND-int8"]["proof"]["int8"] > 0
    assert variants["openvino_backend:BACKEND-fp32"]["agreement"] == 1.0


def test_every_example_has_a_readme() -> None:
    for folder in (ROOT / "examples").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert (folder / "README.md").is_file(), folder
