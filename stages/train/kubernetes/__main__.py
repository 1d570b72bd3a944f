"""``python -m stages.train.kubernetes CONFIG [path=value ...]``: write a training job's manifests.

Two folders: ``trainjob/`` for clusters with Kubeflow Trainer, ``jobset/`` for those with JobSet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import load_config
from pipeline.errors import DlpipeError
from stages.train.kubernetes.write import write_job


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the manifests of a configuration's train stage and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stages.train.kubernetes", description=__doc__)
    parser.add_argument("config", type=Path, help="the YAML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    parser.add_argument("--output", type=Path, default=Path("kubernetes"), help="folder to write")
    options = parser.parse_args(arguments)
    try:
        written = write_job(load_config(options.config, options.overrides), options.output)
    except DlpipeError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
