"""Damaged files in the middle of an epoch: found, named, and gone around."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.artifacts import DataSpec
from pipeline.errors import DataError
from stages.augment.loader import open_loader

MakeSpec = Callable[..., DataSpec]
TRAIN = ["random_resized_crop", "flip"]
BAD = [2, 6, 17]

backends = pytest.mark.parametrize("backend", ["array", "torchvision", "dali-cpu"])


@pytest.fixture
def damaged(photos: Path, tmp_path: Path) -> Path:
    """The photos with a truncated file, one of random bytes and an empty one."""
    folder = tmp_path / "damaged"
    shutil.copytree(photos.parent, folder)
    names = [json.loads(line)["file"] for line in photos.read_text().splitlines()]
    truncated, noise, empty = (folder / names[i] for i in BAD)
    truncated.write_bytes(truncated.read_bytes()[:400])
    noise.write_bytes(b"\xff\xd8\xff" + bytes(range(256)) * 4)
    empty.write_bytes(b"")
    return folder / photos.name


@backends
def test_eval_leaves_damaged_files_out_and_names_each_once(
    make_spec: MakeSpec, damaged: Path, backend: str
) -> None:
    found: list[str] = []
    spec = make_spec(eval=["resize"], backend=backend, manifest=damaged)
    whole = make_spec(eval=["resize"], backend=backend)
    loader = open_loader(spec, "eval", on_bad_file=lambda name, reason: found.append(name))
    for _ in range(2):
        batches = list(loader)
        index = torch.cat([b.index for b in batches])
        assert index.tolist() == [i for i in range(22) if i not in BAD]
        assert len(found) == 3
    assert [Path(name).stem for name in sorted(found, key=lambda n: int(Path(n).stem))] == [
        str(i) for i in BAD
    ]
    good = torch.cat([b.inputs for b in open_loader(whole, "eval")])
    assert torch.equal(torch.cat([b.inputs for b in batches]), good[index])


@backends
def test_train_keeps_its_batches_whole_and_the_others_as_they_were(
    make_spec: MakeSpec, damaged: Path, backend: str
) -> None:
    reasons: list[str] = []
    loader = open_loader(
        make_spec(TRAIN, backend=backend, manifest=damaged),
        "train",
        seed=5,
        on_bad_file=lambda name, reason: reasons.append(reason),
    )
    batches = list(loader)
    whole = list(open_loader(make_spec(TRAIN, backend=backend), "train", seed=5))
    assert len(batches) == len(whole) == 5
    assert reasons
    assert all(reasons)
    for batch, intact in zip(batches, whole, strict=True):
        assert len(batch.targets) == 4
        assert torch.equal(batch.targets, batch.index % 5)
        assert not set(batch.index.tolist()) & set(BAD)
        if not set(intact.index.tolist()) & set(BAD):
            assert torch.equal(batch.inputs, intact.inputs)


@backends
def test_resuming_needs_no_memory_of_damaged_files(
    make_spec: MakeSpec, damaged: Path, backend: str
) -> None:
    spec = make_spec(TRAIN, backend=backend, manifest=damaged)
    loader = open_loader(spec, "train")
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == 2:
            state = loader.state_dict()
    resumed = open_loader(spec, "train")
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == 3
    assert all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.index, b.index)
        for a, b in zip(rest, batches[2:], strict=True)
    )


@backends
def test_on_error_fail_names_the_file(make_spec: MakeSpec, damaged: Path, backend: str) -> None:
    spec = make_spec(eval=["resize"], backend=backend, manifest=damaged)
    with pytest.raises(DataError, match=r"damaged/2\.jpg: the image cannot be decoded"):
        list(open_loader(spec, "eval", on_error="fail"))


@backends
def test_a_file_that_vanished_is_a_damaged_file(
    make_spec: MakeSpec, damaged: Path, backend: str
) -> None:
    (damaged.parent / "2.jpg").unlink()
    found: list[str] = []
    spec = make_spec(eval=["resize"], backend=backend, manifest=damaged)
    list(open_loader(spec, "eval", on_bad_file=lambda name, reason: found.append(reason)))
    assert any("No such file" in reason for reason in found)


def test_a_batch_without_a_good_image_stops_the_run(make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    manifest = tmp_path / "bad.jsonl"
    manifest.write_text(json.dumps({"file": "bad.jpg", "label": 0}) + "\n")
    spec = make_spec(manifest=manifest, num_samples=1, batch_size=1)
    with pytest.raises(DataError, match="all 1 images of a batch are damaged"):
        list(open_loader(spec, "train"))
