"""Environment: what a result was made with: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

import pipeline
from pipeline.device import Device, cuda_device_count

PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "nvidia-dali-cuda130", "onnx", "onnxscript",
    "onnxslim",
    "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "nvidia-pytriton", "tritonclient",
    "pycuda", "scikit-learn", "pydantic",
)  # fmt: skip

NOT_INSTALLED = "not installed"

_CPU_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16",
    "amx_int8", "asimd", "i8mm", "bf16",
)  # fmt: skip


class Hardware(TypedDict):
    """The machine."""

    cpu: str
    cores: int
    features: list[str]
    memory_gb: float
    cuda_devices: int


class Environment(TypedDict):
    """Everything that is saved with a run beside its configuration."""

    dlpipe: str
    python: str
    platform: str
    packages: dict[str, str]
    git_commit: str
    hardware: Hardware
    device: str
    seed: int
    command: str


def describe_environment(device: Device, seed: int) -> Environment:
    """Collect versions, hardware and commit; asks no framework and takes milliseconds."""
    return Environment(
        dlpipe=pipeline.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=package_versions(),
        git_commit=git_commit(Path.cwd()),
        hardware=describe_hardware(),
        device=str(device),
        seed=seed,
        command=" ".join(["dlpipe", *sys.argv[1:]]),
    )


def package_versions() -> dict[str, str]:
    """Return the installed version of each package that matters to a result."""
    versions = {name: installed_version(name) for name in PACKAGES}
    return {name: found for name, found in versions.items() if found != NOT_INSTALLED}


def installed_version(package: str) -> str:
    """Return the version of an installed package, or ``not installed``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def describe_hardware() -> Hardware:
    """Return what the processor is and can do, from the kernel's own tables."""
    return Hardware(
        cpu=_cpu_field("model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        features=cpu_features(),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        cuda_devices=cuda_device_count(),
    )


def cpu_features() -> list[str]:
    """Return which of the instruction sets that matter for deep learning this processor has."""
    flags = set((_cpu_field("flags") or _cpu_field("Features")).split())
    return [feature for feature in _CPU_FEATURES if feature in flags]


def git_commit(folder: Path) -> str:
    """Return the working directory's commit, ``+changes`` if dirty; empty outside git."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def _cpu_field(name: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
