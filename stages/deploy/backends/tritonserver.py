"""A Triton Inference Server of the machine: the program on PATH, or else NVIDIA's container."""

from __future__ import annotations

import os
import secrets
import shutil

from stages.deploy.backends import Launch, Program, Runtime

RUNTIME: Runtime = "native"


def program(launch: Launch) -> Program | None:
    """Return how to start the server on a repository."""
    binary = shutil.which("tritonserver")
    if binary is not None:
        return Program(argv=(binary,), repository=str(launch.mirror()))
    name = f"dlpipe-{secrets.token_hex(6)}"
    return Program(
        argv=container_command(launch, name),
        repository="/models",
        cleanup=("docker", "rm", "--force", name),
    )


def container_command(launch: Launch, name: str) -> tuple[str, ...]:
    """Return the words that start the container: host network, repository read-only, our user."""
    gpus = ("--gpus", "all") if launch.needs_gpu else ()
    return (
        *("docker", "run", "--rm", "--init", "--network=host", "--ipc=private", "--shm-size=1g"),
        *("--name", name),
        *("--user", f"{os.getuid()}:{os.getgid()}"),
        *("--volume", f"{launch.repository.resolve()}:/models:ro"),
        *gpus,
        launch.image,
        "tritonserver",
    )
