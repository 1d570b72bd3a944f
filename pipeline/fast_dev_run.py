"""Fast dev run: the whole chain in seconds, to see that every link of it works.

Each stage says by itself how it is shortened (`stage.Shortens`); what comes out lies in a run
folder of its own, ``runs/NAME-fast-dev-run``, so that it is never taken for the real thing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.check import load_checked
from pipeline.config import ChainConfig
from pipeline.stage import Shortens

SUFFIX = "-fast-dev-run"
_LONGEST_NAME = 64


def load_shortened(path: Path, overrides: Sequence[str]) -> ChainConfig:
    """Load a configuration in its shortened form; what the command line sets stays as it is set.

    Raises:
        ConfigError: with every problem found, in the configuration as it stands too.
    """
    chain = load_checked(path, overrides)
    shorter = ["max_drop=null"]
    for entry in chain.stages:
        stage = entry.build()
        if isinstance(stage, Shortens):
            shorter += [
                f"stages.{entry.name}.{setting}={json.dumps(value)}"
                for setting, value in stage.fast_dev_run().items()
            ]
    name = chain.settings.name[: _LONGEST_NAME - len(SUFFIX)] + SUFFIX
    return load_checked(path, [*shorter, *overrides, f"name={name}"])
