"""Manifest: what an engine is and where it may be loaded; JSON beside it, checked first.

TensorRT says little about an engine that it cannot load, and a foreign or damaged one may crash the
process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.backend import is_installed
from pipeline.device import Device
from pipeline.errors import BackendUnavailable, StageFailed
from pipeline.files import sha256_file, write_atomic
from stages.export.backends import BatchProfile
from stages.export.engine.architecture import architecture
from stages.export.engine.request import ApiModule, Tensor

_REBUILD = "Build it again on this machine: run the export stage once more."


class EngineUnusable(StageFailed):
    """An engine must not be loaded here: it is missing, altered, or made for something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that has to be known about an engine without loading it."""

    api: ApiModule
    """The package that built it, and the only one that can load it."""
    version: str
    """Of that package: an engine belongs to exactly one."""
    architectures: tuple[str, ...]
    """GPU generations it was compiled for: ``SM89``."""
    precision: str
    opset: int
    profile: BatchProfile
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    source: str
    """File name of the ONNX graph."""
    source_sha256: str
    engine_sha256: str
    build_s: float
    created: str
    """UTC, ISO 8601."""
    proof: dict[str, int] = field(default_factory=dict)
    """Convolutions and matrix products by the type they were compiled in."""


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def manifest_path(engine: Path) -> Path:
    """Return where the manifest of an engine lies: beside it."""
    return engine.with_name(engine.name + ".json")


def save_manifest(manifest: Manifest, engine: Path) -> Path:
    """Write the manifest beside its engine and return its path."""
    path = manifest_path(engine)
    write_atomic(path, _MANIFEST.dump_json(manifest, indent=2))
    return path


def load_manifest(engine: Path) -> Manifest:
    """Read the manifest beside an engine.

    Raises:
        EngineUnusable: it is missing or damaged.
    """
    path = manifest_path(engine)
    if not path.exists():
        raise EngineUnusable(
            f"{engine}: there is no manifest {path.name!r} beside it, so nothing says what it was "
            f"built for. {_REBUILD}"
        )
    try:
        return _MANIFEST.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise EngineUnusable(f"{path}: damaged at {place}: {first['msg']}. {_REBUILD}") from error


def check_content(engine: Path) -> Manifest:
    """Return the manifest of an engine whose bytes are the ones that were built.

    Raises:
        EngineUnusable: the engine or its manifest is missing, or either was altered.
    """
    if not engine.exists():
        raise EngineUnusable(f"{engine}: there is no such file. {_REBUILD}")
    manifest = load_manifest(engine)
    digest = sha256_file(engine)
    if digest != manifest.engine_sha256:
        raise EngineUnusable(
            f"{engine}: its content was altered after it was built (SHA-256 {digest[:12]}..., the "
            f"manifest says {manifest.engine_sha256[:12]}...). {_REBUILD}"
        )
    return manifest


def check_manifest(engine: Path, device: Device) -> Manifest:
    """Return the manifest of an engine that may be loaded on `device`.

    Raises:
        EngineUnusable: it is missing, altered, of another TensorRT version, or for other GPUs.
        BackendUnavailable: the package that built it is not installed, or `device` is no CUDA
        device.
    """
    manifest = check_content(engine)
    if not is_installed(manifest.api):
        raise BackendUnavailable(
            f"{engine}: needs the package '{manifest.api}', which is not installed; "
            f"pip install 'dlpipe[{manifest.api.replace('_', '-')}]'."
        )
    here = str(import_module(manifest.api).__version__)
    if here != manifest.version:
        raise EngineUnusable(
            f"{engine}: built by {manifest.api} {manifest.version}, and {here} is installed; only "
            "the version that built an engine can load it. "
            f"Install {manifest.api}=={manifest.version}, or: {_REBUILD}"
        )
    if not device.is_cuda:
        raise BackendUnavailable(
            f"{engine}: an engine runs on a CUDA device, and the device is {device}. Use a machine "
            f"with one of {', '.join(manifest.architectures)}, or backend: onnxruntime."
        )
    check_architecture(engine, manifest, architecture(device))
    return manifest


def check_architecture(engine: Path, manifest: Manifest, here: str) -> None:
    """Let pass only an engine that was compiled for the architecture `here`.

    Raises:
        EngineUnusable: it was not.
    """
    if here not in manifest.architectures:
        raise EngineUnusable(
            f"{engine}: compiled for {', '.join(manifest.architectures)}, and the device is "
            f"{here}. {_REBUILD}"
        )
