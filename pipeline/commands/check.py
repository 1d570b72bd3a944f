"""``dlpipe check``: is the configuration right, and what do its backends resolve to here."""

from __future__ import annotations

import argparse
import sys

from pipeline.check import chain_warnings, check_chain, load_checked, resolve_chain_device


def run(options: argparse.Namespace) -> int:
    """Validate, resolve, run nothing."""
    chain = load_checked(options.config, options.overrides)
    device = resolve_chain_device(chain)
    resolved = check_chain(chain, device)
    stages = " → ".join(entry.name for entry in chain.stages)
    sys.stdout.write(f"{chain.file}: valid. {stages} on {device}\n")
    for item in resolved:
        sys.stdout.write(f"  {item.stage}: {item.reason}\n")
    for warning in chain_warnings(chain.stages):
        sys.stdout.write(f"warning: {warning}\n")
    return 0
