"""Every kind of damage is found by name, and nothing is read twice."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.context import Context
from pipeline.errors import Interrupted
from stages.augment import scan
from stages.augment.scan import check_image, scan_files

Encode = Callable[[int, int], bytes]


def encoded(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (16, 12)).save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header promises 10^10 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(b ^ 0xFF for b in data[middle : middle + 8]) + data[middle + 8 :]


def png(pixels: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("L", (32, 32), pixels).save(buffer, "PNG")
    return buffer.getvalue()


NOISE = png(bytes((i * 7919) % 251 for i in range(1024)))


def test_sound_images_have_no_problem(jpeg: Encode) -> None:
    finding = check_image(jpeg(40, 60))
    assert (finding.problem, finding.kind) == ("", "JPEG")
    assert (finding.height, finding.width, finding.mode) == (40, 60, "RGB")
    for mode, kind in [
        ("L", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("RGB", "BMP"),
        ("RGB", "WEBP"),
    ]:
        assert check_image(encoded(mode, kind)).problem == ""
    assert check_image(jpeg(40, 60) + b"trailing bytes").problem == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x13\x37" * 500, "not an image"),
        (NOISE[: len(NOISE) // 2], "truncated"),
        (NOISE[:-8], "without its end chunk"),
        (flipped(NOISE), "cannot be decoded"),
        (bomb(), "pixels"),
        (encoded("CMYK", "JPEG"), "pixel mode CMYK"),
        (encoded("I;16", "PNG"), "pixel mode I;16"),
        (encoded("P", "GIF"), "GIF image"),
    ],
)
def test_damage_is_named(data: bytes, said: str) -> None:
    assert said in check_image(data).problem


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_jpeg_is_damaged_wherever_it_ends(jpeg: Encode, share: float) -> None:
    data = jpeg(64, 64)
    assert check_image(data[: int(len(data) * share)]).problem


def test_files_that_are_none_are_named(tmp_path: Path, jpeg: Encode) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "empty.jpg").write_bytes(b"")
    (root / "folder.jpg").mkdir()
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "dangling.jpg").symlink_to(root / "gone")
    (tmp_path / "secret.jpg").write_bytes(jpeg(8, 8))
    (root / "outside.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "good.jpg").write_bytes(jpeg(8, 8))
    (root / "inside.jpg").symlink_to(root / "good.jpg")
    os.mkfifo(root / "pipe.jpg")
    files = sorted(root.iterdir())
    found = scan_files(files, [root.resolve()], Context(dir=tmp_path / "work"))
    said = {file.stem: finding.problem for file, finding in zip(files, found, strict=True)}
    assert said.pop("good") == said.pop("inside") == ""
    assert "0 bytes" in said["empty"]
    assert "leads out" in said["outside"]
    assert "regular" in said["pipe"]
    assert "regular" in said["folder"]
    assert all(said.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path: Path, jpeg: Encode) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(8, 8))
    (tmp_path / "a.jpg").chmod(0)
    (found,) = scan_files([tmp_path / "a.jpg"], [tmp_path], Context(dir=tmp_path / "work"))
    assert "Permission denied" in found.problem


def test_a_second_scan_reads_only_what_has_changed(
    tmp_path: Path, jpeg: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    files = [root / f"{i}.jpg" for i in range(5)]
    for i, file in enumerate(files):
        file.write_bytes(jpeg(8 + i, 8))
    ctx = Context(dir=tmp_path / "work")
    read: list[Path] = []
    check = scan.check_file
    monkeypatch.setattr(scan, "check_file", lambda *a: (read.append(a[0]), check(*a))[1])
    first = scan_files(files, [root], ctx)
    assert sorted(read) == files
    read.clear()
    assert scan_files(files, [root], ctx) == first
    assert read == []
    files[2].write_bytes(b"broken")
    assert scan_files(files, [root], ctx)[2].problem
    assert read == [files[2]]


def test_a_foreign_cache_counts_as_empty_and_an_unwritable_one_as_none(
    tmp_path: Path, jpeg: Encode
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.jpg").write_bytes(jpeg(8, 8))
    ctx = Context(dir=tmp_path / "work")
    first = scan_files([root / "a.jpg"], [root], ctx)
    (cache,) = (tmp_path / "cache" / "dlpipe" / "scan").iterdir()
    cache.write_text('["another scanner", {"x": 1}]')
    assert scan_files([root / "a.jpg"], [root], ctx) == first
    cache.unlink()
    cache.parent.rmdir()
    cache.parent.write_text("a file in the way")
    assert scan_files([root / "a.jpg"], [root], ctx) == first


def test_a_stop_keeps_what_was_scanned(tmp_path: Path, jpeg: Encode) -> None:
    ctx = Context(dir=tmp_path / "work")
    ctx.stop.request("SIGTERM")
    (tmp_path / "a.jpg").write_bytes(jpeg(8, 8))
    with pytest.raises(Interrupted, match="SIGTERM"):
        scan_files([tmp_path / "a.jpg"], [tmp_path], ctx)
