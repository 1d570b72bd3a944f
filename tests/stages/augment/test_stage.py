"""The stage as a whole: from a data set's name to a `DataSpec` that loaders can open."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import ConfigError, DataError
from pipeline.events import Event, EventLog
from pipeline.report.blocks import load_section
from stages.augment.config import AugmentConfig
from stages.augment.loader import open_loader
from stages.augment.stage import Augment

Encode = Callable[[int, int], bytes]


@dataclass
class Heard:
    events: list[Event] = field(default_factory=list)

    def receive(self, event: Event) -> None:
        self.events.append(event)

    @property
    def warnings(self) -> str:
        return "\n".join(str(e.fields["message"]) for e in self.events if e.kind == "warning")


def stage(**settings: object) -> Augment:
    return Augment(AugmentConfig.model_validate(settings))


def run(folder: Path, heard: Heard | None = None, **settings: object) -> DataSpec:
    folder.mkdir(exist_ok=True)
    log = EventLog((heard,) if heard else ())
    return stage(**settings).run(Context(dir=folder, events=log))


@pytest.fixture
def flowers(tmp_path: Path, jpeg: Encode) -> Path:
    """Two classes of ten different photos each."""
    for label, name in enumerate(("rose", "tulip")):
        folder = tmp_path / "flowers" / name
        folder.mkdir(parents=True)
        for i in range(10):
            (folder / f"{i}.jpg").write_bytes(jpeg(70 + i, 70 + 20 * label))
    return tmp_path / "flowers"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataSpec]:
    folder = tmp_path_factory.mktemp("digits") / "work"
    return folder, run(folder, dataset="digits", size=16)


def test_digits_become_a_data_spec(digits: tuple[Path, DataSpec]) -> None:
    folder, spec = digits
    assert {split: part.samples for split, part in spec.splits.items()} == {
        "train": 1347, "eval": 450, "calibration": 256,
    }  # fmt: skip
    assert spec.input.shape == (-1, 16, 16, 1)
    assert spec.classes == tuple("0123456789")
    assert 0.2 < spec.mean[0] < 0.4
    assert 0.2 < spec.std[0] < 0.5
    for name in ("card.json", "damaged.json", "preview.png"):
        assert (folder / name).stat().st_size
    section = load_section(folder)
    assert section is not None
    assert {"facts", "table", "bar", "gallery"} <= {block.block for block in section.blocks}
    assert not list(folder.glob(".*"))


def test_the_folder_can_be_moved(digits: tuple[Path, DataSpec], tmp_path: Path) -> None:
    folder, spec = digits
    for manifest in folder.glob("*.json*"):
        if manifest.name != "section.json":
            assert str(folder) not in manifest.read_text()
    files = [
        json.loads(line)["file"] for line in spec.splits["train"].manifest.read_text().splitlines()
    ]
    assert all((folder / file).is_file() for file in files)


def test_a_size_found_in_the_images_may_be_too_small_for_what_eval_says(
    flowers: Path, tmp_path: Path
) -> None:
    heard, eval_ = Heard(), [{"resize": {"shorter": 512}}, "center_crop"]
    assert not stage(dataset={"folder": str(flowers)}, eval=eval_).warnings()
    run(tmp_path / "work", heard, dataset={"folder": str(flowers)}, batch_size=4, eval=eval_)
    assert "center_crop keeps 224 of it (the target's size, 44%)" in heard.warnings


def test_splits_do_not_overlap_and_calibration_is_part_of_train(
    digits: tuple[Path, DataSpec],
) -> None:
    _, spec = digits
    files = {
        split: {json.loads(line)["file"] for line in part.manifest.read_text().splitlines()}
        for split, part in spec.splits.items()
    }
    assert not files["train"] & files["eval"]
    assert files["calibration"] < files["train"]


def test_the_same_data_has_the_same_digest_and_other_data_another(
    flowers: Path, tmp_path: Path
) -> None:
    settings = {"dataset": {"folder": str(flowers)}, "size": 32, "batch_size": 4}
    first = run(tmp_path / "a", **settings)
    assert run(tmp_path / "b", **settings).digest == first.digest
    assert run(tmp_path / "c", **settings, split_seed=1).digest != first.digest
    other = run(tmp_path / "d", **settings, train=["flip"], eval=["resize"])
    assert other.digest != first.digest


def test_damaged_images_are_skipped_by_name_or_stop_the_run(flowers: Path, tmp_path: Path) -> None:
    (flowers / "rose" / "3.jpg").write_bytes(b"")
    (flowers / "tulip" / "4.jpg").write_bytes((flowers / "tulip" / "5.jpg").read_bytes()[:900])
    settings = {"dataset": {"folder": str(flowers)}, "size": 32, "batch_size": 4}
    heard = Heard()
    spec = run(tmp_path / "a", heard, **settings)
    assert spec.splits["train"].samples + spec.splits["eval"].samples == 18
    named = json.loads((tmp_path / "a" / "damaged.json").read_text())
    assert [entry["name"] for entry in named] == ["rose/3.jpg", "tulip/4.jpg"]
    assert "2 of 20 images are left out" in heard.warnings
    with pytest.raises(DataError, match="2 of 20 images cannot be used: rose/3.jpg is empty"):
        run(tmp_path / "b", **settings, on_error="fail")


def test_a_class_without_a_usable_image_is_an_error(flowers: Path, tmp_path: Path) -> None:
    for file in (flowers / "rose").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no usable training image in 1 class\(es\): rose"):
        run(tmp_path / "a", dataset={"folder": str(flowers)})
    shutil.rmtree(flowers / "rose")
    with pytest.raises(DataError, match=r"needs at least 2\. Put the images of each class"):
        run(tmp_path / "b", dataset={"folder": str(flowers)})


def test_equal_files_in_train_and_eval_are_told(flowers: Path, tmp_path: Path) -> None:
    for name in ("rose", "tulip"):
        target = tmp_path / "held_out" / name
        target.mkdir(parents=True)
        shutil.copy(flowers / name / "1.jpg", target / "copy.jpg")
    heard = Heard()
    dataset = {"folder": str(flowers), "eval": str(tmp_path / "held_out")}
    run(tmp_path / "a", heard, dataset=dataset, size=32, batch_size=4)
    assert "2 eval image(s) are equal to a training image" in heard.warnings
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    assert len(card["leaks"]) == 2


def test_too_few_images_for_a_batch_is_an_error(flowers: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not one full batch"):
        run(tmp_path / "a", dataset={"folder": str(flowers)}, batch_size=64)


def test_normalize_with_a_wrong_number_of_channels_is_an_error(
    flowers: Path, tmp_path: Path
) -> None:
    normalize = {"normalize": {"mean": [0.5], "std": [0.5]}}
    with pytest.raises(ConfigError, match="3 channel"):
        run(tmp_path / "a", dataset={"folder": str(flowers)}, batch_size=4, eval=[normalize])


def write_shard(path: Path, flowers: Path, names: range) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("rose", "tulip"):
            for i in names:
                data = (flowers / name / f"{i}.jpg").read_bytes()
                for ending, content in (("jpg", data), ("cls", name.encode())):
                    member = tarfile.TarInfo(f"{name}{i}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def test_shards_are_read_as_the_folder_is(flowers: Path, tmp_path: Path) -> None:
    (flowers / "rose" / "0.jpg").write_bytes(b"broken")
    for number in range(3):
        write_shard(tmp_path / f"t-{number}.tar", flowers, range(3 * number, 3 * number + 3))
    write_shard(tmp_path / "held_out.tar", flowers, range(9, 10))
    dataset = {"webdataset": str(tmp_path / "t-{0..2}.tar"), "eval": str(tmp_path / "held_out.tar")}
    spec = run(tmp_path / "a", dataset=dataset, size=32, batch_size=4, calibration={"samples": 6})
    assert spec.classes == ("rose", "tulip")
    counts = {split: part.samples for split, part in spec.splits.items()}
    assert counts == {"train": 17, "eval": 2, "calibration": 6}
    for split in ("eval", "calibration"):
        with closing(open_loader(spec, split)) as loader:
            targets = [int(t) for batch in loader for t in batch.targets]
        assert len(targets) == counts[split]
        assert set(targets) == {0, 1}
    folder = tmp_path / "moved"
    shutil.move(tmp_path / "a", folder)
    manifest = json.loads((folder / "calibration.json").read_text())
    assert manifest["shards"] == ["calibration.tar"]


def test_check_names_the_nearest_path(flowers: Path) -> None:
    (problem,) = stage(dataset={"folder": str(flowers.with_name("flowrs"))}).check(CPU)
    assert problem.path == "dataset.folder"
    assert "Did you mean 'flowers'?" in problem.message
    assert stage(dataset={"folder": str(flowers)}).check(CPU) == []
    (problem,) = stage(dataset="digits", backend="dali-cpuu").check(CPU)
    assert problem.path == "backend"
    shards = {"webdataset": "gone-{0..2}.tar", "eval": str(flowers)}
    paths = [problem.path for problem in stage(dataset=shards).check(CPU)]
    assert paths == ["dataset.webdataset", "dataset.eval"]


def test_a_changed_data_set_changes_the_fingerprint(flowers: Path) -> None:
    augment = stage(dataset={"folder": str(flowers)})
    before = augment.fingerprint(CPU)
    assert augment.fingerprint(CPU) == before
    (flowers / "rose" / "new.jpg").write_bytes(b"x")
    assert augment.fingerprint(CPU)["data"] != before["data"]
    shutil.rmtree(flowers)
    assert augment.fingerprint(CPU)["data"] != before["data"]


def test_loaders_open_over_it(digits: tuple[Path, DataSpec]) -> None:
    _, spec = digits
    with closing(open_loader(spec, "eval", batch_size=8)) as loader:
        batch = next(iter(loader))
    assert batch.inputs.shape == (8, 16, 16, 1)
    assert batch.inputs.numpy().dtype == np.uint8
