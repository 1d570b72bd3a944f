"""A few batches take a look at a few files, and leave nothing wrong behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.context import Context
from pipeline.errors import DataError
from stages.augment.config import AugmentConfig
from stages.augment.glance import look
from stages.augment.sources import Finding, Source
from stages.augment.sources.folder import open_folder
from stages.augment.stage import Augment

CLASSES = ("a", "b", "c")


@pytest.fixture
def photos(tmp_path: Path, jpeg: Callable[[int, int], bytes]) -> Path:
    """100 photos a class, all different."""
    fill(tmp_path / "photos", 100, jpeg(12, 12))
    return tmp_path / "photos"


def fill(root: Path, number: int, photo: bytes) -> None:
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(number):
            # Decoders do not mind bytes after the end.
            (root / name / f"{i:03d}.jpg").write_bytes(photo + f"{root.name}{name}{i}".encode())


def configured(root: Path, **settings: object) -> AugmentConfig:
    given = {"dataset": {"folder": str(root)}, "batch_size": 6, **settings}
    return AugmentConfig.model_validate(given)


def look_at(root: Path, folder: Path, **settings: object) -> tuple[Source, list[Finding]]:
    folder.mkdir()
    return look(open_folder(root), configured(root, **settings), Context(dir=folder))


def test_only_as_many_are_looked_at_as_the_batches_take(photos: Path, tmp_path: Path) -> None:
    source, findings = look_at(photos, tmp_path / "work", limit_batches=1)
    # 6 for eval are a fifth of 30; a quarter more is spare.
    assert len(findings) == len(source.items) == 39
    assert source.classes == CLASSES
    assert set(Counter(item.label for item in source.items).values()) == {13}


def test_without_a_limit_all_are_looked_at(photos: Path, tmp_path: Path) -> None:
    assert len(look_at(photos, tmp_path / "work")[1]) == 300
    assert len(look_at(photos, tmp_path / "more", limit_batches=90)[1]) == 300


def test_more_are_looked_at_where_many_are_damaged(photos: Path, tmp_path: Path) -> None:
    for number in range(0, 100, 2):
        for name in CLASSES:
            (photos / name / f"{number:03d}.jpg").write_bytes(b"")
    source, findings = look_at(photos, tmp_path / "work", limit_batches=1)
    assert len(findings) in (75, 150)
    usable = Counter(
        item.label for item, f in zip(source.items, findings, strict=True) if not f.problem
    )
    assert min(usable.values()) >= 10


def test_a_class_of_damaged_files_is_told_as_ever(photos: Path, tmp_path: Path) -> None:
    for file in (photos / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable training image in 1 class\(es\): b"):
        Augment(configured(photos, limit_batches=1)).run(Context(dir=tmp_path))


def test_an_eval_part_smaller_than_a_batch_is_looked_at_alone(
    tmp_path: Path, jpeg: Callable[[int, int], bytes]
) -> None:
    fill(tmp_path / "photos" / "train", 100, jpeg(12, 12))
    fill(tmp_path / "photos" / "val", 1, jpeg(12, 12))
    source, _ = look_at(tmp_path / "photos", tmp_path / "work", limit_batches=2)
    assert Counter(item.part for item in source.items) == {"train": 15, "eval": 3}


def test_a_short_run_is_marked_and_a_whole_one_after_it_is_whole(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "a" / "007.jpg").write_bytes(b"no photo")
    digests = []
    for name, settings in (("short", {"limit_batches": 1}), ("whole", {})):
        folder = tmp_path / name
        folder.mkdir()
        spec = Augment(configured(photos, size=12, **settings)).run(Context(dir=folder))
        card = json.loads((folder / "card.json").read_text())
        text = (folder / "section.json").read_text()
        if settings:
            assert card["unseen"] == 261
            assert "261 images were not looked at" in text
            assert "Every image was read" not in text
        else:
            assert (card["unseen"], card["damaged"]) == (0, 1)
            assert "were not looked at" not in text
            assert sum(spec.splits[split].samples for split in ("train", "eval")) == 299
        digests.append(spec.digest)
    assert digests[0] != digests[1]
