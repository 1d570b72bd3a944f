"""Packages: the one-line descriptions of a Debian or Ubuntu system's packages, by section.

Real text that needs no download: what ``apt-cache dumpavail`` lists, about 60,000 texts of six
words in 58 sections on Debian 12. Descriptions that several packages share count once. A linear
model on TF-IDF features reaches 77 % there; sections overlap, so nothing reaches 100 %.

Which texts are held out is decided by the hash of each text, so that a text stays on its side
whatever else a release adds. The hash of the whole set is told with each run: figures of different
sets are not comparable.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import write_atomic
from stages.augment.sources import Part

LISTS = Path("/var/lib/apt/lists")
FILES: dict[Part, str] = {"train": "train.jsonl", "eval": "eval.jsonl"}
_EVAL_OF = 5
"""One text in this many is held out."""
_FIELDS = ("Package: ", "Section: ", "Description: ", "Description-en: ")
_TIMEOUT_S = 120


def why_not() -> str:
    """Say why there are no descriptions on this machine; an empty string: there are."""
    if shutil.which("apt-cache") is None:
        return "there is no apt-cache; the descriptions are those of a Debian or Ubuntu system"
    if not any(LISTS.glob("*Packages*")):
        return "apt has no package lists. Run: sudo apt-get update"
    return ""


def write_packages(folder: Path) -> str:
    """Write the set as two tables of ``text`` and ``label``; return the SHA-256 of both.

    A section that has no training text, as those of small archives beside Debian's, is left out.

    Raises:
        DataError: this machine has none.
    """
    lines: dict[Part, list[str]] = {"train": [], "eval": []}
    samples = [(text, section, part_of(text)) for text, section in sorted(_distinct(_dump()))]
    trained = {section for _, section, part in samples if part == "train"}
    for text, section, part in samples:
        if section in trained:
            row = json.dumps({"text": text, "label": section}, ensure_ascii=False)
            lines[part].append(f"{row}\n")
    digest = hashlib.sha256()
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in FILES.items():
        table = "".join(lines[part])
        digest.update(table.encode())
        write_atomic(folder / name, table)
    return digest.hexdigest()


def part_of(text: str) -> Part:
    """Return the side that a text is on, by its hash alone."""
    number = int.from_bytes(hashlib.sha256(text.lower().encode()).digest()[:8], "big")
    return "train" if number % _EVAL_OF else "eval"


def descriptions(dump: str) -> Iterator[tuple[str, str, str]]:
    """Yield package, description and section of each stanza that has all three."""
    for stanza in dump.split("\n\n"):
        fields: dict[str, str] = {}
        for line in stanza.split("\n"):
            if line.startswith(_FIELDS):
                name, _, value = line.partition(": ")
                fields.setdefault(name, value.strip())
        text = fields.get("Description") or fields.get("Description-en", "")
        section = fields.get("Section", "").rpartition("/")[2]  # Ubuntu: universe/games
        if text and section and "Package" in fields:
            yield fields["Package"], text, section


def _distinct(dump: str) -> Iterator[tuple[str, str]]:
    """Yield each text once, with the section of the first package by name that has it."""
    seen: set[str] = set()
    for _, text, section in sorted(descriptions(dump)):
        if text.lower() not in seen:
            seen.add(text.lower())
            yield text, section


def _dump() -> str:
    why = why_not()
    if why:
        raise DataError(f"dataset: packages: {why}. Or use {{text: your.csv}}.")
    try:
        done = subprocess.run(
            ["apt-cache", "dumpavail"], capture_output=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(f"dataset: packages: apt-cache dumpavail failed: {error}.") from error
    return done.stdout.decode("utf-8", errors="replace")
