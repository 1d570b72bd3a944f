"""Atomic publication of a folder: at every moment readers see the old one or the new one, whole."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.files import sync_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `target` if the block ends well, or vanishes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a process that was killed
        shutil.rmtree(leftover)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        staging.chmod(0o755)
        yield staging
        _sync(staging)
        _put_in_place(staging, target)
        sync_folder(target.parent)
    finally:
        # Now the old content after an exchange, or what was not finished.
        shutil.rmtree(staging, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Write a tree's content through to the disk before it gets its name."""
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
    elif not _exchange(staging, target):
        # This file system cannot swap two names: the gap between these renames is the price.
        old = staging.with_name(f"{staging.name}.old")
        os.rename(target, old)
        os.rename(staging, target)
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot (renameat2(2), Linux 3.15)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    failed = libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code), str(other))
