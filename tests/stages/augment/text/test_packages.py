"""Descriptions of packages: read from what apt says, and split by their hashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from stages.augment.text import packages
from stages.augment.text.packages import descriptions, part_of, why_not, write_packages

DUMP = """\
Package: zlib1g
Version: 1:1.2
Section: libs
Description: compression library: runtime
 More of it, over
 several lines.
Description-md5: 567

Package: hedgewars
Section: universe/games
Description-en: Worms style game
 Description: not a field

Package: no-section
Description: text

Package: no-text
Section: admin

Section: admin
Description: no package

"""


def test_debian_s_and_ubuntu_s_stanzas_are_read_and_others_left_out() -> None:
    assert list(descriptions(DUMP)) == [
        ("zlib1g", "compression library: runtime", "libs"),
        ("hedgewars", "Worms style game", "games"),
    ]
    assert list(descriptions("")) == []


@given(st.text())
def test_no_listing_is_a_mishap(dump: str) -> None:
    assert all(all(found) for found in descriptions(dump))


@given(st.text())
def test_a_text_stays_on_its_side_whatever_its_capitals(text: str) -> None:
    assert part_of(text) == part_of(text.lower())


def test_about_a_fifth_is_held_out() -> None:
    parts = [part_of(f"text {number}") for number in range(5000)]
    assert parts.count("eval") == pytest.approx(1000, abs=100)
    assert set(parts) == {"train", "eval"}


def stanzas(*rows: tuple[str, str, str]) -> str:
    return "\n\n".join(f"Package: {p}\nSection: {s}\nDescription: {t}" for p, t, s in rows)


def labels_of(folder: Path) -> dict[str, str]:
    lines = [line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    return {row["text"]: row["label"] for row in map(json.loads, lines)}


def test_a_text_of_several_packages_counts_once_with_the_first_one_s_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = next(text for i in range(99) if part_of(text := f"text {i}") == "train")
    rows = [("b", trained.upper(), "late"), ("a", trained, "early")]
    monkeypatch.setattr(packages, "_dump", lambda: stanzas(*rows))
    write_packages(tmp_path)
    assert labels_of(tmp_path) == {trained: "early"}


def test_a_section_that_training_would_not_see_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = next(text for i in range(99) if part_of(text := f"text {i}") == "eval")
    trained = next(text for i in range(99) if part_of(text := f"text {i}") == "train")
    rows = [("a", held_out, "stable"), ("b", trained, "libs")]
    monkeypatch.setattr(packages, "_dump", lambda: stanzas(*rows))
    write_packages(tmp_path)
    assert labels_of(tmp_path) == {trained: "libs"}


def test_a_machine_without_apt_or_without_lists_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt-cache")
    monkeypatch.setattr(packages, "LISTS", tmp_path / "none")
    assert why_not() == "apt has no package lists. Run: sudo apt-get update"
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(DataError, match=r"there is no apt-cache; .*Or use \{text: your\.csv\}"):
        write_packages(tmp_path)


def test_an_apt_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Packages").touch()
    (tmp_path / "apt-cache").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "apt-cache").chmod(0o755)
    monkeypatch.setattr(packages, "LISTS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-cache dumpavail failed: .* exit status 7"):
        write_packages(tmp_path)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_this_machine_s_packages_are_the_same_each_time(tmp_path: Path) -> None:
    one, two = (write_packages(tmp_path / name) for name in ("one", "two"))
    assert one == two
    sizes = {}
    for part, name in packages.FILES.items():
        table = (tmp_path / "one" / name).read_bytes()
        assert table == (tmp_path / "two" / name).read_bytes()
        sizes[part] = table.count(b"\n")
    assert sizes["eval"] / sum(sizes.values()) == pytest.approx(0.2, abs=0.02)
