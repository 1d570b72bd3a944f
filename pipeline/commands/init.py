"""``dlpipe init``: a commented starter configuration."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files

from pipeline.errors import ConfigError
from pipeline.files import write_atomic


def run(options: argparse.Namespace) -> int:
    """Write the starter file, unless one is there."""
    if options.path.exists() and not options.force:
        raise ConfigError(f"{options.path}: is there already. Give another path, or --force.")
    if not options.path.parent.is_dir():
        raise ConfigError(f"{options.path.parent}: is no folder. Make it first.")
    write_atomic(options.path, files("pipeline").joinpath("starter.yaml").read_bytes())
    sys.stdout.write(
        f"{options.path} is written. Next: dlpipe check {options.path}, "
        f"then dlpipe run {options.path}\n"
    )
    return 0
