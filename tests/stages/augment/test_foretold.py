"""What is told of a data set before it is looked at is what the stage then finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.context import Context
from stages.augment.config import AugmentConfig
from stages.augment.stage import Augment


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("aster", "rose"):
        folder = tmp_path / "flowers" / name
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 255, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "flowers"


def test_digits_are_known_by_heart(tmp_path):
    assert_comes_true({"dataset": "digits", "backend": "array"}, tmp_path)


def test_a_folder_tells_its_classes_and_the_configuration_the_size(flowers, tmp_path):
    settings = {"dataset": {"folder": str(flowers)}, "size": [16, 24], "batch_size": 4}
    assert_comes_true(settings | {"backend": "torchvision"}, tmp_path)


def test_what_only_a_look_can_tell_is_not_guessed(flowers):
    for dataset in ({"folder": str(flowers)}, {"webdataset": "a.tar", "eval": "b.tar"}, "keywords"):
        config = AugmentConfig.model_validate({"dataset": dataset})
        assert Augment(config).foretell() is None


def assert_comes_true(settings, folder):
    stage = Augment(AugmentConfig.model_validate(settings))
    told = stage.foretell()
    (folder / "run").mkdir()
    found = stage.run(Context(dir=folder / "run"))
    assert (told.classes, told.input, told.output) == (found.classes, found.input, found.output)
    assert told.batch_size == found.batch_size
