"""``dlpipe compare``: how two runs differ."""

from __future__ import annotations

import argparse
import sys

from pipeline.commands.report import find_run
from pipeline.report.compare import compare_runs


def run(options: argparse.Namespace) -> int:
    """Print the differences of settings, accuracy, gates and times."""
    run_a = find_run(options.run_a, options.runs_dir)
    run_b = find_run(options.run_b, options.runs_dir)
    sys.stdout.write(compare_runs(run_a, run_b).render_text() + "\n")
    return 0
