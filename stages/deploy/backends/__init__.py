"""Backends of the deploy stage: what runs a model repository."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from ctypes.util import find_library
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

from pipeline.backend import Backend
from stages.deploy.kubernetes_config import TRITON_IMAGE

Runtime = Literal["python", "native"]
"""Triton backends in the repository: Python files of ours, or onnxruntime, tensorrt and dali."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Everything a server is started with."""

    repository: Path
    work_dir: Path
    """A folder for the life of the server: links, the log."""
    image: str
    """The container image, where there is no program."""
    needs_gpu: bool = False

    def mirror(self) -> Path:
        """Return a copy made of links: Python leaves its caches there and not in the original."""
        target = self.work_dir / "repository"
        shutil.copytree(self.repository.resolve(), target, copy_function=os.symlink)
        return target


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """How to start a tritonserver: the words before its own flags, and its environment."""

    argv: tuple[str, ...]
    repository: str
    """The repository's path as the program sees it."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment."""
    flags: tuple[str, ...] = ()
    cleanup: tuple[str, ...] = ()
    """A command to run when it has ended, however it ended: a container outlives its client."""


class DeployBackend(Protocol):
    """What each module under ``backends/`` offers, as plain functions of these names."""

    RUNTIME: Runtime

    def program(self, launch: Launch) -> Program | None:
        """Return how to start the server, or None where nothing is started."""
        ...


def _why_no_embedded_server() -> str | None:
    """Return why the server inside the nvidia-pytriton wheel cannot run here."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"needs Linux on x86_64, and this is {sys.platform} on {platform.machine()}"
    try:
        numpy_version = version("numpy")
    except PackageNotFoundError:
        return "needs the package 'numpy', which is not installed"
    if int(numpy_version.split(".")[0]) >= 2:
        return (
            f"needs numpy 1.x, and numpy {numpy_version} is installed: its Python backend would "
            "answer with empty outputs and status OK; pip install 'numpy<2'"
        )
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    spec = find_spec("pytriton")
    root = Path(next(iter((spec and spec.submodule_search_locations) or [""])))
    if not (root / "tritonserver" / "python_backend_stubs" / python).is_dir():
        return f"has no Python backend for Python {python}; use Python 3.11, 3.12 or 3.13"
    if shared_libpython() is None:
        return f"needs libpython{python}.so; apt-get install libpython{python}"
    return None


def shared_libpython() -> Path | None:
    """Return this Python's shared library: the loader's own, or the one beside the interpreter."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    if find_library(name.removeprefix("lib").removesuffix(".so.1.0")):
        return Path(name)
    folder = sysconfig.get_config_var("LIBDIR")
    path = Path(folder or "/", name)
    return path if path.exists() else None


def _why_no_server_program() -> str | None:
    """Return why neither a tritonserver nor its container can start; nothing is pulled unasked."""
    if shutil.which("tritonserver"):
        return None
    mend = f"docker pull {TRITON_IMAGE}:26.10-py3"
    if shutil.which("docker") is None:
        return f"needs the program 'tritonserver' on PATH, or docker and the image: {mend}"
    try:
        images = subprocess.run(
            ["docker", "images", "--quiet", TRITON_IMAGE],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "needs the program 'tritonserver' on PATH; docker is there and does not answer"
    return None if images.stdout.strip() else f"needs its container image: {mend}"


BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="tritonserver",
        module="stages.deploy.backends.tritonserver",
        summary="a Triton Inference Server on PATH, or its container: onnxruntime, tensorrt, dali",
        needs=("tritonclient",),
        extra="triton",
        probe=_why_no_server_program,
    ),
    Backend(
        name="triton-embedded",
        module="stages.deploy.backends.triton_embedded",
        summary="the real tritonserver inside the nvidia-pytriton wheel; no container, no GPU",
        needs=("pytriton", "tritonclient"),
        extra="triton",
        probe=_why_no_embedded_server,
    ),
    Backend(
        name="files",
        module="stages.deploy.backends.files",
        summary="writes the model repository and starts nothing",
        needs=("tritonclient",),
        extra="triton",
    ),
)
