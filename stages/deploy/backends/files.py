"""The backend that starts nothing: it leaves a repository for a Triton server elsewhere."""

from __future__ import annotations

from stages.deploy.backends import Launch, Program, Runtime

RUNTIME: Runtime = "native"


def program(launch: Launch) -> Program | None:
    """Return None: nothing is started."""
    return None
