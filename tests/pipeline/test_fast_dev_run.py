"""Fast dev run: every shipped configuration can be shortened, and the chain runs to its end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.fast_dev_run import load_shortened

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_can_be_shortened(path: Path) -> None:
    whole, short = load_config(path), load_shortened(path, [])
    assert short.settings.name == f"{whole.settings.name}-fast-dev-run"
    assert short.settings.max_drop is None
    assert [entry.name for entry in short.stages] == [entry.name for entry in whole.stages]
    settings = {entry.name: entry.config.model_dump() for entry in short.stages}
    assert settings["augment"]["limit_batches"] == 2
    assert settings["train"]["epochs"] == 1
    assert settings["train"]["target"] is None


def test_what_the_command_line_sets_stays_and_a_new_name_is_marked_too() -> None:
    path = ROOT / "configs" / "quickstart.yaml"
    short = load_shortened(path, ["stages.train.epochs=3", "name=mine"])
    assert short.settings.name == "mine-fast-dev-run"
    train = next(entry for entry in short.stages if entry.name == "train")
    assert train.config.model_dump()["epochs"] == 3


def test_a_stage_under_another_name_is_shortened_too(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "name: " + "n" * 64 + "\nstages:\n  - augment: {dataset: digits}\n  - train\n"
        "  - student: {uses: train, epochs: 9}\n"
    )
    short = load_shortened(path, [])
    assert [e.config.model_dump()["epochs"] for e in short.stages[1:]] == [1, 1]
    assert len(short.settings.name) == 64


def test_a_wrong_configuration_is_still_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        load_shortened(ROOT / "configs" / "quickstart.yaml", ["stages.train.epoch=3"])


def test_a_folder_of_images_runs_through_the_whole_chain(tmp_path: Path, dlpipe) -> None:
    draw = np.random.default_rng(0)
    for label in ("dark", "light"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(30):
            pixels = draw.integers(0, 128, (40, 40, 3), dtype=np.uint8) + (label == "light") * 100
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "images" / label / f"{number}.jpg"
            )
    done = dlpipe(
        "run", "configs/image_folder.yaml", "--fast-dev-run", "--runs-dir", tmp_path,
        f"stages.augment.dataset.folder={tmp_path / 'images'}", "stages.augment.size=32",
        "stages.augment.batch_size=8", "stages.export.backend=onnxruntime",
    )  # fmt: skip
    folder = tmp_path / "image_folder-fast-dev-run"
    assert str(folder) in done.out
    assert not (tmp_path / "image_folder").exists()
    record = json.loads((folder / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["ran"] * 4
    assert len((folder / "augment" / "train.jsonl").read_text().splitlines()) == 16
