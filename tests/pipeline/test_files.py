from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.files import sha256_file, sha256_text, write_atomic


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old and longer")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError, match="a"):
        write_atomic(path, "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_and_its_text_have_the_same_hash(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("héllo")
    assert sha256_file(path) == sha256_text("héllo")
