"""Manifests that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import DataSpec
from pipeline.errors import DataError
from stages.augment.reader import open_reader

MakeSpec = Callable[..., DataSpec]


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        ("folder", "", "lists no sample"),
        ("folder", '{"file": "a.jpg"}\n', "cannot be read: KeyError"),
        ("folder", "not json\n", "cannot be read: JSONDecodeError"),
        ("array", "{}", "cannot be read: KeyError"),
        ("array", '{"images": "no.npy", "labels": "no.npy"}', "cannot be read: FileNotFoundError"),
        ("webdataset", '{"shards": ["no.tar"], "excluded": []}', "cannot be read: FileNotFound"),
        ("records", "", "'records' is no reader. Allowed: .*, 'webdataset' or 'text'"),
        ("text", '{"text": ["a"]}', "cannot be read: KeyError"),
        ("text", '{"text": 3, "label": 0}', "cannot be read: TypeError"),
    ],
)
def test_a_bad_manifest_is_one_readable_error(
    make_spec: MakeSpec, tmp_path: Path, reader: str, content: str, message: str
) -> None:
    manifest = tmp_path / "manifest"
    manifest.write_text(content)
    with pytest.raises(DataError, match=message):
        open_reader(make_spec(reader=reader, manifest=manifest, num_samples=1), "train")


def test_arrays_have_to_be_images(make_spec: MakeSpec, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 4)))
    np.save(tmp_path / "y.npy", np.zeros(3, dtype=np.int64))
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"images": "x.npy", "labels": "y.npy"}))
    with pytest.raises(DataError, match=r"images float64 \(3, 4, 4\) with 3 labels"):
        open_reader(make_spec(reader="array", manifest=manifest, num_samples=3), "train")


def test_shards_that_have_changed_are_noticed(make_spec: MakeSpec, shards: Path) -> None:
    described = json.loads(shards.read_text())
    manifest = shards.parent / "changed.json"
    manifest.write_text(json.dumps({**described, "samples": 5}))
    with pytest.raises(DataError, match="hold 22 samples, and 5 are stated"):
        open_reader(make_spec(reader="webdataset", manifest=manifest, num_samples=5), "train")


def test_an_unknown_split_is_refused(make_spec: MakeSpec) -> None:
    with pytest.raises(DataError, match="no split 'test'. Allowed: 'train', 'eval'"):
        open_reader(make_spec(), "test")
