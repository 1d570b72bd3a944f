"""The whole stage on a tiny network: what it leaves, and what it tells."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.artifacts import TrainedModel
from pipeline.errors import ConfigError
from pipeline.files import sha256_file
from pipeline.report.blocks import Gallery, LineChart, Matrix, load_section
from stages.augment.loader import open_loader


def rebuild(trained: TrainedModel) -> torch.nn.Module:
    module, _, function = trained.module.factory.partition(":")
    network = getattr(import_module(module), function)(**trained.module.arguments)
    network.load_state_dict(load_file(trained.weights))
    return network.eval()


def test_the_artifact_rebuilds_the_network_that_gave_the_predictions(train_once, spec):
    trained = train_once()
    network = rebuild(trained)
    with torch.no_grad():
        logits = torch.cat([network(b.inputs) for b in open_loader(spec, "eval")])
    saved = np.load(trained.predictions)
    np.testing.assert_allclose(saved["logits"], logits.numpy(), atol=1e-5)
    assert saved["logits"].dtype == np.float32
    assert (
        saved["targets"].tolist()
        == np.load(spec.splits["eval"].manifest.parent / "eval_labels.npy").tolist()
    )
    assert (saved["logits"].argmax(1) == saved["targets"]).mean() == trained.metrics["top1"]


def test_the_network_learns_and_leaves_nothing_but_its_results(train_once, tmp_path):
    trained = train_once(epochs=6)
    assert trained.metrics["top1"] > 0.9
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left <= {"model.safetensors", "predictions.npz", "section.json", "mistakes"}
    chapter = (tmp_path / "run" / "section.json").read_text()
    assert str(tmp_path) not in chapter, "the folder will be moved"


def test_every_epoch_is_told_and_drawn(train_once, recorder, tmp_path):
    train_once()
    assert [event.fields["epoch"] for event in recorder.of("epoch")] == [1, 2, 3]
    section = load_section(tmp_path / "run")
    assert section is not None
    kinds = [type(block) for block in section.blocks]
    assert kinds.count(LineChart) == 3
    assert Matrix in kinds
    for block in section.blocks:
        for picture in block.pictures if isinstance(block, Gallery) else ():
            assert (tmp_path / "run" / picture.path).is_file()


def test_training_stops_at_the_target_and_the_gate_holds(train_once):
    trained = train_once(epochs=50, target={"top1": 0.6})
    assert trained.metrics["epochs"] < 50
    assert [gate.passed for gate in trained.gates if gate.name == "target top1"] == [True]


def test_a_missed_target_is_a_gate_that_fails_with_both_figures(train_once):
    trained = train_once(epochs=1, target={"top1": 1.0}, optimizer={"name": "sgd", "lr": 1e-9})
    gate = next(gate for gate in trained.gates if gate.name == "target top1")
    assert not gate.passed
    assert gate.limit == 1.0
    assert "target 100.00%" in gate.message
    assert "ended by epochs" in gate.message


def test_training_stops_when_its_time_is_up(train_once):
    assert train_once(epochs=1000, max_time=0.3).metrics["epochs"] < 1000


def test_a_rehearsal_gets_the_untrained_network_before_the_first_step(train_once, recorder):
    seen = []

    def rehearse(draft: TrainedModel) -> None:
        assert draft.predictions is None
        assert not recorder.of("epoch")
        seen.append(rebuild(draft))

    trained = train_once(rehearse=rehearse)
    assert len(seen) == 1
    first, last = seen[0].state_dict(), load_file(trained.weights)
    assert any(not torch.equal(first[name], last[name]) for name in last)


def test_a_rehearsal_changes_nothing_of_the_result(train_once):
    def noisy(_: TrainedModel) -> None:
        torch.rand(1000)

    plain = load_file(train_once("plain", rehearsal=False).weights)
    rehearsed = load_file(train_once("rehearsed", rehearse=noisy, rehearsal=True).weights)
    # The key differs by the setting, the weights do not.
    assert all(torch.equal(plain[name], rehearsed[name]) for name in plain)


def test_bf16_is_checked_against_fp32_first_and_measured_in_both_at_the_end(train_once, recorder):
    trained = train_once(precision="bf16")
    assert 0 < trained.metrics["amp_difference"] < 0.1
    assert [hop.name for hop in trained.hops] == ["fp32", "bf16"]
    assert recorder.of("amp_check")[0].time < recorder.of("epoch")[0].time


@pytest.mark.parametrize("which", ["best", "last", "ema"])
def test_the_exported_weights_are_the_ones_asked_for(train_once, which):
    trained = train_once(which, weights=which)
    assert trained.hops[0].samples == 48
    assert trained.metrics["top1"] == trained.hops[0].top1


def test_tensorboard_files_are_written_when_wanted_and_change_nothing(train_once, tmp_path):
    plain = train_once("plain")
    drawn = train_once("drawn", tensorboard=True)
    assert list((tmp_path / "drawn" / "tensorboard").glob("events.out.tfevents.*"))
    assert sha256_file(plain.weights) == sha256_file(drawn.weights)


def test_pretrained_weights_are_the_starting_point(train_once, recorder):
    first = train_once("first")
    slow = {"name": "sgd", "lr": 1e-9}
    again = train_once("again", pretrained=str(first.weights), epochs=1, optimizer=slow)
    assert again.metrics["top1"] == pytest.approx(first.metrics["top1"], abs=0.05)
    assert "the head is kept" in " ".join(recorder.messages("info"))


def test_weights_of_another_network_are_refused(train_once):
    first = train_once("first")
    with pytest.raises(ConfigError, match=r"pretrained: .* fits 0 of the network's \d+ tensors"):
        train_once(
            "other", pretrained=str(first.weights), model="stages.train.models.small:small_resnet"
        )


def test_a_missing_weights_file_is_refused(train_once, tmp_path):
    with pytest.raises(ConfigError, match="is no file"):
        train_once(pretrained=str(tmp_path / "nowhere.safetensors"))
