"""Idx files and tar shards are read safely; what is wrong with them is said."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import DataError
from stages.augment.paths import expand_shards
from stages.augment.quarantine import set_aside
from stages.augment.sources.folder import open_folder
from stages.augment.sources.idx import open_idx, read_idx
from stages.augment.sources.shards import open_shards

Encode = Callable[[int, int], bytes]


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


def write_idx(folder: Path, prefix: str, count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 6, 5), np.uint8)
    labels = (np.arange(count) % 3).astype(np.uint8)
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels))


def test_idx_files_become_arrays(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 12)
    write_idx(tmp_path, "t10k", 6)
    source = open_idx(tmp_path, ["a", "b", "c"])
    assert [item.part for item in source.items] == ["train"] * 12 + ["eval"] * 6
    manifest = source.write_manifest("eval", range(12, 18), tmp_path)
    named = json.loads(manifest.read_text())
    assert np.load(tmp_path / named["images"]).shape == (6, 6, 5)
    assert np.load(tmp_path / named["labels"]).tolist() == [0, 1, 2, 0, 1, 2]


def test_idx_files_of_one_label_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 12)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(idx(np.zeros(12, dtype=np.uint8)))
    source, ctx = open_idx(tmp_path), Context(dir=tmp_path)
    with pytest.raises(DataError, match=r"1 class \(0\).*labels-idx1 file has to hold more"):
        set_aside(source, source.inspect(ctx), "skip", ctx)


def test_idx_without_a_test_pair_is_left_to_be_split(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 12)
    assert {item.part for item in open_idx(tmp_path).items} == {"any"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "begins with nothing"),
        (b"PK\x03\x04", "not an idx file"),
        (b"\0\0\x0d\x01\0\0\0\1", "0x0d"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "3 bytes of data"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "more than 2 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "too large"),
    ],
)
def test_a_damaged_idx_file_is_explained(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    for name in ("x", "x.gz"):
        with pytest.raises(DataError, match=said):
            read_idx(tmp_path / name)


@settings(max_examples=60)
@given(content=st.binary(max_size=40), cut=st.integers(0, 60))
def test_no_bytes_escape_as_another_error(
    content: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("idx") / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08" + content)[:cut])
    try:
        read_idx(path)
    except DataError:
        return


def test_idx_labels_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 12)
    with pytest.raises(DataError, match="a label 2, and dataset.classes names 2"):
        open_idx(tmp_path, ["a", "b"])
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="do not belong together"):
        open_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
        open_idx(tmp_path)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_hostile_and_damaged_members_are_named_and_left_out(tmp_path: Path, jpeg: Encode) -> None:
    image = jpeg(8, 8)
    shard = write_tar(tmp_path / "a.tar", [
        ("good1.jpg", image), ("good1.cls", b"cat"), ("good2.cls", b"dog"), ("good2.jpg", image),
        ("../out.jpg", image), ("../out.cls", b"cat"), ("/abs.jpg", image), ("/abs.cls", b"cat"),
        ("broken.jpg", image[:99]), ("broken.cls", b"cat"), ("lost.jpg", image),
        ("only.cls", b"cat"), ("long.cls", b"x" * 5000), ("long.jpg", image),
    ])  # fmt: skip
    with tarfile.open(shard, "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    source = open_shards({"train": [shard]}, (), Context(dir=tmp_path), name="x")
    found = source.inspect(Context(dir=tmp_path))
    said = {key: finding.problem for key, finding in zip(source.keys, found, strict=True)}
    assert said.pop("good1") == said.pop("good2") == ""
    assert "leads out" in said["../out"]
    assert "leads out" in said["/abs"]
    assert "no label" in said["lost"]
    assert "no image" in said["only"]
    assert "at most 1,024" in said["long"]
    assert "no regular file" in said["link"]
    assert all(said.values())
    assert source.classes == ("cat", "dog")
    manifest = json.loads(source.write_manifest("train", [0, 1], tmp_path).read_text())
    assert set(manifest["excluded"]) == set(said)
    assert manifest["samples"] == 2


def test_a_damaged_tar_is_one_damaged_sample(tmp_path: Path, jpeg: Encode) -> None:
    good = write_tar(tmp_path / "a.tar", [("a.jpg", jpeg(8, 8)), ("a.cls", b"0")])
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 99)
    (tmp_path / "c.tar").write_bytes(good.read_bytes()[:700])
    source = open_shards(
        {"train": [good, tmp_path / "b.tar", tmp_path / "c.tar"]},
        (),
        Context(dir=tmp_path),
        name="x",
    )
    assert [bool(finding.problem) for finding in source.findings] == [False, True, True]
    assert "damaged tar" in source.findings[1].problem


def test_keys_must_be_unique_over_shards(tmp_path: Path, jpeg: Encode) -> None:
    members = [("a.jpg", jpeg(8, 8)), ("a.cls", b"0")]
    paths = [write_tar(tmp_path / name, members) for name in ("a.tar", "b.tar")]
    with pytest.raises(DataError, match="the key 'a' stands in"):
        open_shards({"train": paths}, (), Context(dir=tmp_path), name="x")


def test_labels_are_numbers_in_order_or_names(tmp_path: Path, jpeg: Encode) -> None:
    members = [
        part
        for n in (10, 9, 2)
        for part in ((f"{n}.jpg", jpeg(8, 8)), (f"{n}.cls", str(n).encode()))
    ]
    shard = write_tar(tmp_path / "a.tar", members)
    source = open_shards({"train": [shard]}, (), Context(dir=tmp_path), name="x")
    assert source.classes == ("2", "9", "10")
    with pytest.raises(DataError, match="the label '10'"):
        open_shards({"train": [shard]}, ("a", "b"), Context(dir=tmp_path), name="x")


def test_shard_patterns_expand(tmp_path: Path) -> None:
    names = [path.name for path in expand_shards(str(tmp_path / "t-{008..011}.tar"))]
    assert names == ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar"]
    (tmp_path / "b.tar").touch()
    (tmp_path / "a.tar").touch()
    assert [path.name for path in expand_shards(str(tmp_path / "*.tar"))] == ["a.tar", "b.tar"]
    with pytest.raises(ValueError, match="too many files"):
        expand_shards("{0..999999999}.tar")


def test_folders_that_are_no_data_set_are_explained(tmp_path: Path, jpeg: Encode) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        open_folder(tmp_path / "gone")
    with pytest.raises(DataError, match="no class folder"):
        open_folder(tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no image in it"):
        open_folder(tmp_path)
    (tmp_path / "train" / "cat" / "a.jpg").write_bytes(jpeg(8, 8))
    (tmp_path / "val" / "dog").mkdir(parents=True)
    with pytest.raises(DataError, match="dog are not among the training classes"):
        open_folder(tmp_path)


def test_a_val_folder_is_recognised_and_other_files_are_told(tmp_path: Path, jpeg: Encode) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "a.JPG").write_bytes(jpeg(8, 8))
    (tmp_path / "train" / "cat" / "notes.txt").touch()
    source = open_folder(tmp_path)
    assert [item.part for item in source.items] == ["train", "train", "eval", "eval"]
    assert [item.label for item in source.items] == [0, 1, 0, 1]
    assert "notes.txt" in source.notes[0]
