"""A Triton Inference Server of the machine: the program on PATH, or else NVIDIA's container."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from stages.deploy.backends import Launch, Program, Runtime
from stages.deploy.model_configs import MOUNT
from stages.deploy.pbtxt import CONFIG_FILE

RUNTIME: Runtime = "native"


def program(launch: Launch) -> Program | None:
    """Return how to start the server on a repository."""
    binary = shutil.which("tritonserver")
    if binary is not None:
        return Program(argv=(binary,), repository=str(unmounted(launch.mirror())))
    name = f"dlpipe-{secrets.token_hex(6)}"
    return Program(
        argv=container_command(launch, name),
        repository=MOUNT,
        cleanup=("docker", "rm", "--force", name),
    )


def unmounted(mirror: Path) -> Path:
    """Let configurations in a copy made of links name files there, and not where a mount would be.

    Of all that a configuration names, only the library of operators is named in full.
    """
    for config in mirror.glob(f"*/{CONFIG_FILE}"):
        text = config.read_text(encoding="utf-8")
        if f'"{MOUNT}/' in text:
            config.unlink()  # the link
            config.write_text(text.replace(f'"{MOUNT}/', f'"{mirror}/'), encoding="utf-8")
    return mirror


def container_command(launch: Launch, name: str) -> tuple[str, ...]:
    """Return the words that start the container: host network, repository read-only, our user."""
    gpus = ("--gpus", "all") if launch.needs_gpu else ()
    return (
        *("docker", "run", "--rm", "--init", "--network=host", "--ipc=private", "--shm-size=1g"),
        *("--name", name),
        *("--user", f"{os.getuid()}:{os.getgid()}"),
        *("--volume", f"{launch.repository.resolve()}:{MOUNT}:ro"),
        *gpus,
        launch.image,
        "tritonserver",
    )
