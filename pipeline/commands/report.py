"""``dlpipe report``: a run's HTML report, written again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.errors import ConfigError, nearest
from pipeline.report.report import write_report


def run(options: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    path = write_report(find_run(options.run, options.runs_dir))
    sys.stdout.write(f"report: {path}\n")
    return 0


def find_run(given: Path, runs_dir: Path) -> Path:
    """Return the folder of a run, given as a path or as its name.

    Raises:
        ConfigError: there is no such run.
    """
    for candidate in (given, runs_dir / given):
        if (candidate / "run.json").is_file():
            return candidate
    names = [path.parent.name for path in runs_dir.glob("*/run.json")]
    known = f" Runs in {runs_dir}: {', '.join(sorted(names))}." if names else ""
    raise ConfigError(f"{given}: is no run (no run.json in it).{known}{nearest(given.name, names)}")
