"""Publication: the old folder or the new one, never a part."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stages.deploy.publish import published


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def publish(target: Path, files: dict[str, str]) -> None:
    with published(target) as folder:
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)


def test_what_was_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    publish(tmp_path / "new" / "repository", {"a/1": "one", "b": "two"})
    assert content(tmp_path / "new") == {"repository/a/1": "one", "repository/b": "two"}


def test_the_second_publication_replaces_the_first_whole(tmp_path: Path) -> None:
    publish(tmp_path / "r", {"old": "1"})
    publish(tmp_path / "r", {"new": "2"})
    assert content(tmp_path) == {"r/new": "2"}


def test_an_error_leaves_the_old_version_and_no_leftovers(tmp_path: Path) -> None:
    publish(tmp_path / "r", {"old": "1"})
    with pytest.raises(FileExistsError, match="half"):
        publish(tmp_path / "r", {"half": "x", "half/more": "y"})
    assert content(tmp_path) == {"r/old": "1"}


def test_a_killed_publication_leaves_the_old_version(tmp_path: Path) -> None:
    publish(tmp_path / "r", {"old": "1"})
    script = (
        "import os, signal, sys, pathlib\n"
        "from stages.deploy.publish import published\n"
        "with published(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "r")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert content(tmp_path / "r") == {"old": "1"}
    publish(tmp_path / "r", {"new": "2"})
    assert content(tmp_path) == {"r/new": "2"}, "the leftovers of the killed one are cleared away"


def test_a_reader_never_sees_a_gap(tmp_path: Path) -> None:
    target = tmp_path / "r"
    publish(target, {"version": "0"})
    done = threading.Event()
    missing = []

    def read() -> None:
        while not done.is_set():
            if not target.exists():
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 40):
        publish(target, {"version": str(number)})
    done.set()
    reader.join()
    assert not missing
    assert content(target) == {"version": "39"}
