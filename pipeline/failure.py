"""Failure: an exception from below, as the sentence a user reads, with the trace kept in a file."""

from __future__ import annotations

import errno
import os
import shutil
import time
import traceback
from pathlib import Path

from pipeline.errors import DlpipeError, StageFailed

ERROR_LOG = "error.log"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_KEPT = "Earlier artifacts are intact; the same command goes on from here."


def stage_failure(name: str, error: Exception, run_dir: Path) -> StageFailed:
    """Return what to tell when a stage raised something that is no `DlpipeError`."""
    where = f"stages.{name}"
    if _is_full(error):
        return StageFailed(f"{where}: {_disk_is_full(run_dir, error)} {_KEPT}")
    trace = "".join(traceback.format_exception(error))
    note = _append(run_dir / ERROR_LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {where}\n{trace}\n")
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    return StageFailed(f"{where}: {kind}{error}. {note} {_KEPT}")


def folder_failure(run_dir: Path, error: OSError) -> DlpipeError:
    """Return what to tell when the run's own files could not be written."""
    if _is_full(error):
        return DlpipeError(f"{run_dir}: {_disk_is_full(run_dir, error)} {_KEPT}")
    return DlpipeError(
        f"{run_dir}: cannot be written to: {error}. Mend it, or choose another --runs-dir. {_KEPT}"
    )


def _is_full(error: Exception) -> bool:
    """Tell a full disk, also where a vendor's own exception hides the system's."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return os.strerror(errno.ENOSPC) in str(error)


def _disk_is_full(run_dir: Path, error: Exception) -> str:
    free_mb = shutil.disk_usage(run_dir).free / 1e6
    return f"the disk is full ({free_mb:,.0f} MB free): {error}. Free some space."


def _append(path: Path, text: str) -> str:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        return f"(The trace could not be written to {path}: {error.strerror}.)"
    return f"The trace is in {path}."
