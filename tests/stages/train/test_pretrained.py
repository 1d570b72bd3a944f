"""Starting from weights of somebody else: what is believed, what fits, and where it is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.device import CPU
from pipeline.errors import ConfigError
from stages.train.config import TrainConfig
from stages.train.models.factory import build_model
from stages.train.models.head import head_layers
from stages.train.models.names import weights_problem
from stages.train.models.pretrained import Fit, load_pretrained
from stages.train.models.timm_weights import timm_mean_std
from stages.train.models.weights_file import Note, read_weights
from stages.train.stage import Train

ROOT = Path(__file__).parents[3]
CLASSES = ("a", "b", "c")
DATA = {"classes": 3, "height": 32, "width": 32, "channels": 3, "mean": (0.5,), "std": (0.2,)}
NOTE = Note(model="test_resnet", small_input=False, classes=CLASSES, mean=(0.5,), std=(0.2,))


def weights_of(name: str, folder: Path, classes: int = 7, **options: object) -> Path:
    """A file as timm publishes them: three channels, its own classes."""
    path = folder / f"{name}.safetensors"
    tensors = timm.create_model(name, num_classes=classes, **options).state_dict()
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, {"format": "pt"})
    return path


def lay_over(name: str, path: Path, **data: object) -> tuple[torch.nn.Module, Fit]:
    model = build_model(name, **DATA | data)
    return model.body, load_pretrained(model, read_weights(path), CLASSES)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_the_body_is_the_files_and_the_head_is_new(name, tmp_path):
    path = weights_of(name, tmp_path)
    body, fit = lay_over(name, path)
    given, own = read_weights(path).tensors, body.state_dict()
    head = head_layers(body)
    assert {n.rpartition(".")[0] for n in fit.new_head} == set(head)
    assert fit.fresh == fit.unused == ()
    for key, tensor in own.items():
        if key not in fit.new_head and tensor.shape == given[key].shape:
            assert torch.equal(tensor, given[key]), key


def test_the_head_is_kept_for_the_same_number_of_classes(tmp_path):
    body, fit = lay_over("test_resnet", weights_of("test_resnet", tmp_path, classes=3))
    assert fit.new_head == ()
    assert fit.loaded == len(body.state_dict())


@pytest.mark.parametrize(("classes", "kept"), [(CLASSES, True), (("x", "y", "z"), False)])
def test_our_own_file_knows_which_classes_its_head_tells(classes, kept, tmp_path):
    model, path = build_model("test_resnet", **DATA), tmp_path / "ours.safetensors"
    note = NOTE.model_copy(update={"classes": classes})
    save_file(dict(model.state_dict()), path, note.as_metadata())
    _, fit = lay_over("test_resnet", path)
    assert (fit.new_head == ()) is kept


def test_a_grey_image_meets_the_sum_of_the_channels(tmp_path):
    path = weights_of("test_resnet", tmp_path)
    body, fit = lay_over("test_resnet", path, channels=1)
    assert fit.input_adapted
    name = f"{body.pretrained_cfg['first_conv']}.weight"
    given = read_weights(path).tensors[name]
    torch.testing.assert_close(body.state_dict()[name], given.sum(1, keepdim=True))


def test_position_embeddings_are_resized_to_the_images(tmp_path):
    path = weights_of("test_vit", tmp_path, img_size=64)
    body, fit = lay_over("test_vit", path)
    assert "pos_embed" not in fit.fresh
    assert body.pos_embed.shape != read_weights(path).tensors["pos_embed"].shape


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "body.", "_orig_mod.module."])
def test_names_of_wrappers_are_taken_off(prefix, tmp_path):
    tensors = {f"{prefix}conv.weight": torch.ones(2), f"{prefix}fc.bias": torch.ones(2)}
    save_file(tensors, tmp_path / "w.safetensors")
    assert set(read_weights(tmp_path / "w.safetensors").tensors) == {"conv.weight", "fc.bias"}


def test_weights_of_another_model_are_refused_with_the_name_of_theirs(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(dict(build_model("test_vit", **DATA).state_dict()), path,
              NOTE.model_copy(update={"model": "test_vit"}).as_metadata())  # fmt: skip
    with pytest.raises(ConfigError, match=r"written for 'test_vit', fits 0 of the network's \d+"):
        lay_over("test_resnet", path)


def test_a_family_that_reads_its_files_by_name_refuses_others(tmp_path):
    path = weights_of("test_resnet", tmp_path)
    with pytest.raises(ConfigError, match=r"fits \d+ of the network's|no weights of this family"):
        lay_over("test_convnext", path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors at all",
        (2**40).to_bytes(8, "little") + b"{}",
        (16).to_bytes(8, "little") + b'{"a": [1, 2, 3]}',
        b"\x80\x04\x95" + bytes(64),
    ],
    ids=["empty", "text", "huge header", "wrong header", "pickle in disguise"],
)
def test_a_damaged_or_hostile_file_is_one_clear_sentence(content, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as safetensors: .* fetch it again"):
        read_weights(path)


def test_a_cut_off_file_is_refused(tmp_path):
    path = weights_of("test_resnet", tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        read_weights(path)


@pytest.mark.parametrize("note", ["no json", '{"model": 3}', "[]"])
def test_a_note_that_is_none_of_ours_is_refused(note, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", {"dlpipe": note})
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        read_weights(tmp_path / "w.safetensors")


def test_weights_have_to_be_finite(tmp_path):
    save_file(
        {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}, tmp_path / "w.safetensors"
    )
    with pytest.raises(ConfigError, match=r"NaN or Inf in 1 tensor\(s\), 'b' first"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "ckpt"])
def test_a_pickle_is_refused_before_anything_runs_with_the_way_to_convert_it(suffix, tmp_path):
    path = tmp_path / f"model.{suffix}"
    torch.save({"weight": torch.ones(3)}, path)
    [problem] = Train(TrainConfig(pretrained=str(path))).check(CPU)
    assert problem.path == "pretrained"
    assert "is a pickle, and loading one runs whatever code it holds" in problem.message
    command = problem.message.partition("python -c ")[2].strip('"')
    subprocess.run([sys.executable, "-c", command], check=True, cwd=tmp_path, timeout=60)
    assert weights_problem(str(tmp_path / "model.safetensors")) == ""


def test_a_slip_of_the_pen_in_the_path_names_the_file_beside_it(tmp_path):
    (tmp_path / "resnet18.safetensors").touch()
    said = weights_problem(str(tmp_path / "resnet81.safetensors"))
    assert said.endswith("Did you mean 'resnet18.safetensors'?")
    assert "Did you mean 'auto'?" in weights_problem("atuo")


def test_a_grey_model_takes_the_mean_of_timms_three_figures():
    mean, std = timm_mean_std("resnet18", 1)
    assert mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    assert std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))
    assert timm_mean_std("tiny_net:tiny_net", 1) is None


def hub_cache(folder: Path, repository: str, weights: Path) -> None:
    """Lay a file where huggingface_hub keeps what it has fetched."""
    revision = "0" * 40
    home = folder / "hub" / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    (home / "snapshots" / revision).mkdir(parents=True)
    weights.rename(home / "snapshots" / revision / "model.safetensors")


FIND = """
import json, sys
from stages.train.models.timm_weights import find_timm_weights, how_to_fetch
from stages.train.config import TrainConfig
from stages.train.stage import Train
from pipeline.device import CPU
parts = Train(TrainConfig(model="test_resnet", pretrained="auto")).fingerprint(CPU)
print(json.dumps([str(find_timm_weights("test_resnet")), "pretrained" in parts,
                  how_to_fetch("test_resnet"), str(find_timm_weights("no:model"))]))
"""


def find_in(home: Path) -> list[object]:
    env = os.environ | {"HF_HOME": str(home), "TORCH_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FIND], env=env, cwd=ROOT, check=True, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    answer: list[object] = json.loads(done.stdout)
    return answer


def test_timms_weights_are_found_in_the_cache_and_part_of_the_fingerprint(tmp_path):
    hub_cache(tmp_path, "timm/test_resnet.r160_in1k", weights_of("test_resnet", tmp_path))
    path, in_fingerprint, _, own = find_in(tmp_path)
    assert str(path).endswith("model.safetensors")
    assert in_fingerprint
    assert own == "None"


def test_without_a_cache_nothing_is_found_and_nothing_is_fetched(tmp_path):
    path, in_fingerprint, command, _ = find_in(tmp_path)
    assert path == "None"
    assert not in_fingerprint
    assert command == "hf download timm/test_resnet.r160_in1k model.safetensors"
