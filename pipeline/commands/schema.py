"""``dlpipe schema``: the JSON Schema of the configuration."""

from __future__ import annotations

import argparse
import json
import sys

from pipeline.files import write_atomic
from pipeline.schema import config_schema


def run(options: argparse.Namespace) -> int:
    """Print the schema, or write it to a file."""
    text = json.dumps(config_schema(), indent=1) + "\n"
    if options.output is not None:
        write_atomic(options.output, text)
    else:
        sys.stdout.write(text)
    return 0
