from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from toy_stages import Letters, Words

from pipeline.artifacts import DataSpec, Gate, Split
from pipeline.errors import MissingArtifact
from pipeline.store import changed_files, content_digest, load_artifact, save_artifact, saved_digest


def words(folder: Path, text: str = "one") -> Words:
    path = folder / "words.txt"
    path.write_text(text)
    gate = Gate(name="g", passed=True, value=1.0, limit=2.0)
    artifact = Words(text=path, count=1, gates=(gate,))
    save_artifact(artifact, folder)
    return artifact


def test_what_is_saved_is_loaded_again_with_absolute_paths(tmp_path: Path) -> None:
    artifact = words(tmp_path)
    assert load_artifact(Words, tmp_path) == artifact


def test_a_folder_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    words(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert load_artifact(Words, tmp_path / "b").text == tmp_path / "b" / "words.txt"


def test_paths_outside_the_folder_stay_absolute(tmp_path: Path) -> None:
    outside = tmp_path / "data.txt"
    outside.write_text("x")
    folder = tmp_path / "stage"
    folder.mkdir()
    save_artifact(Words(text=outside, count=1), folder)
    assert load_artifact(Words, folder).text == outside


def test_nested_artifacts_come_back_whole(tmp_path: Path) -> None:
    manifest = tmp_path / "train.jsonl"
    manifest.write_text("{}")
    spec = DataSpec(
        kind="image",
        name="d",
        backend="array",
        reader="folder",
        transforms=manifest,
        splits={"train": Split(manifest=manifest, samples=3)},
        classes=("a", "b"),
        height=8,
        width=8,
        channels=1,
        mean=(0.5,),
        std=(0.25,),
        batch_size=2,
        digest="d",
    )
    save_artifact(spec, tmp_path)
    assert load_artifact(DataSpec, tmp_path) == spec


def test_equal_content_has_an_equal_digest_wherever_it_lies(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        words(tmp_path / name)
    assert saved_digest(tmp_path / "a") == saved_digest(tmp_path / "b")
    assert saved_digest(tmp_path / "a") == content_digest(load_artifact(Words, tmp_path / "a"))
    words(tmp_path / "b", text="two")
    assert saved_digest(tmp_path / "a") != saved_digest(tmp_path / "b")


def test_a_missing_or_altered_file_is_noticed(tmp_path: Path) -> None:
    words(tmp_path)
    assert changed_files(tmp_path) == []
    (tmp_path / "words.txt").write_text("twp")
    assert changed_files(tmp_path) == ["words.txt was altered"]
    (tmp_path / "words.txt").unlink()
    assert changed_files(tmp_path) == ["words.txt is missing"]


def test_the_wrong_type_is_refused(tmp_path: Path) -> None:
    words(tmp_path)
    with pytest.raises(MissingArtifact, match="holds a toy_stages:Words, not a Letters"):
        load_artifact(Letters, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type": "toy_stages:Words"}'])
def test_a_damaged_record_is_a_missing_artifact(tmp_path: Path, text: str) -> None:
    words(tmp_path)
    (tmp_path / "artifact.json").write_text(text)
    with pytest.raises(MissingArtifact, match=r"artifact\.json|Words"):
        load_artifact(Words, tmp_path)


def test_no_record_is_a_missing_artifact(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="cannot be read"):
        load_artifact(Words, tmp_path)


def test_the_record_holds_no_path_of_the_machine(tmp_path: Path) -> None:
    words(tmp_path)
    assert str(tmp_path) not in (tmp_path / "artifact.json").read_text()
    record = json.loads((tmp_path / "artifact.json").read_text())
    assert record["files"].keys() == {"words.txt"}
    shutil.rmtree(tmp_path)
