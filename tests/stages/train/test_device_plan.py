"""Plans for devices: from the configuration alone, and plain about what of it they do not use."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.report.blocks import Note, Table
from stages.train.config import TrainConfig
from stages.train.device_plan import plan_devices

CLASSES = tuple("abc")


def plan(folder: Path, **settings: object) -> tuple[str, list[str]]:
    """Return the caption of the first table, and the notes."""
    spec = DataSpec(
        kind="image", name="foretold", backend="", reader="", transforms=folder / "none", splits={},
        classes=CLASSES, height=8, width=8, channels=1, mean=(0.5,), std=(0.5,), batch_size=16,
        digest="",
    )  # fmt: skip
    config = TrainConfig.model_validate({"precision": "fp32", **settings})
    ctx = Context(dir=folder, artifacts={DataSpec: spec})
    table, *others = plan_devices(config, ctx, devices=2, memory=1 << 30)
    assert isinstance(table, Table)
    return table.caption, [note.text for note in others if isinstance(note, Note)]


def test_mini_batches_are_those_of_training(tmp_path: Path) -> None:
    assert "mini-batches of 16 in" in plan(tmp_path, model="resnet10t")[0]
    assert "mini-batches of 4 in" in plan(tmp_path, model="resnet10t", batch_size=4)[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": "auto"}, "batch_size: auto is searched in the run; planned with 16"),
        (
            {"parallel": {"pipeline": 2, "micro_batches": 4}},
            "parallel.pipeline, parallel.micro_batches: not used here",
        ),
        ({"launch": {"processes": 2}}, "launch: planned for one copy of the network"),
    ],
)
def test_what_is_not_used_is_said(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    _, notes = plan(tmp_path, model="resnet10t", **settings)
    assert any(note.startswith(said) for note in notes)


def test_rates_by_layer_and_layers_computed_from_images_need_no_data(tmp_path: Path) -> None:
    caption, notes = plan(tmp_path, model="resnet10t", optimizer={"layer_decay": 0.75})
    assert "parameters in" in caption
    assert not any("not used" in note for note in notes)
    assert "parameters in" in plan(tmp_path, model="stages.train.models.fast:fast_convnet")[0]
