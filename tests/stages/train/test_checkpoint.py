"""Checkpoints on disk: whole or not at all, and never trusted blindly."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import Interrupted
from pipeline.events import EventLog
from pipeline.files import sha256_file
from stages.train.checkpoint import CheckpointFolder
from stages.train.reproducible import capture_random_state

FILES = ["weights.safetensors", "state.pt", "checkpoint.json"]


@pytest.fixture
def folder(tmp_path, recorder) -> CheckpointFolder:
    return CheckpointFolder(
        folder=tmp_path / "checkpoints", key="k", keep=2, events=EventLog((recorder,))
    )


def save(folder: CheckpointFolder, step: int) -> None:
    weights = {"model": {"w": torch.full((3,), float(step))}}
    folder.save(step, weights, {"random": capture_random_state(), "step": step})


def test_what_was_saved_is_what_is_loaded(folder):
    save(folder, 7)
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.step == loaded.state["step"] == 7
    assert loaded.weights["model"]["w"].tolist() == [7.0] * 3


def test_only_the_newest_are_kept(folder):
    for step in (1, 2, 3, 4):
        save(folder, step)
    assert [path.name for path in folder.paths()] == ["step-00000003-01", "step-00000004-01"]


def test_the_same_step_saved_again_counts_as_newer(folder):
    save(folder, 3)
    save(folder, 3)
    assert [path.name for path in folder.paths()] == ["step-00000003-01", "step-00000003-02"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(folder, recorder, name, damage):
    save(folder, 1)
    save(folder, 2)
    path = folder.paths()[-1] / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        # In the manifest, a bit of a hash; elsewhere any bit.
        place = content.index(b"sha256") + 40 if name == "checkpoint.json" else len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.step == 1
    assert any("step-00000002-01 is damaged" in m for m in recorder.messages("warning"))


def test_none_is_left_when_all_are_damaged(folder):
    save(folder, 1)
    (folder.paths()[0] / "state.pt").unlink()
    assert folder.load_newest() is None


def test_one_of_another_configuration_is_not_used(folder, recorder):
    save(folder, 1)
    other = CheckpointFolder(
        folder=folder.folder, key="another", keep=2, events=EventLog((recorder,))
    )
    assert other.load_newest() is None
    assert any("belongs to another configuration" in m for m in recorder.messages("warning"))


def test_what_a_crash_left_half_written_is_never_loaded(folder):
    save(folder, 1)
    half = folder.folder / ".writing-00000002"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.step == 1
    save(folder, 3)
    assert not half.exists()


def test_a_state_with_code_in_it_is_not_run(folder, tmp_path):
    """A pickle that would call something is refused by weights_only, even under a valid hash."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder.save(1, {"model": {"w": torch.zeros(1)}}, {"evil": Evil()})
    assert folder.load_newest() is None
    assert not (tmp_path / "ran").exists()


def test_tied_and_strided_weights_are_saved_as_they_are(folder):
    tied = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    folder.save(1, {"model": {"a": tied, "b": tied}}, {})
    loaded = folder.load_newest()
    assert loaded is not None
    assert torch.equal(loaded.weights["model"]["a"], tied)
    assert torch.equal(loaded.weights["model"]["b"], tied)


def test_a_run_goes_on_to_the_same_bits_from_the_checkpoint_before_a_damaged_one(
    train_once, recorder, stop, tmp_path
):
    undisturbed = train_once("undisturbed")

    def on_event(event) -> None:
        if str(event.fields.get("note")).startswith("epoch 3/"):
            stop.request("SIGTERM")

    recorder.on_event = on_event
    with pytest.raises(Interrupted, match="SIGTERM"):
        train_once("cut", checkpoint={"every_steps": 4})
    recorder.on_event, stop.signal_name = lambda event: None, ""
    newest = sorted((tmp_path / "cut" / "checkpoints").glob("step-*"))[-1]
    (newest / "state.pt").write_bytes(b"nothing")
    resumed = train_once("cut", checkpoint={"every_steps": 4})
    assert sha256_file(resumed.weights) == sha256_file(undisturbed.weights)
    assert any("is damaged" in m for m in recorder.messages("warning"))
