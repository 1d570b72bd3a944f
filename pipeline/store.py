"""Store: an artifact as ``artifact.json`` beside its files, relative and checked by content.

Paths are kept relative, so that a folder can be moved; every file is known by its hash.

    save_artifact(artifact, folder)        # with a hash of every file in the folder
    load_artifact(TrainedModel, folder)    # paths absolute again, wherever the folder is now
    changed_files(folder)                  # what is missing or altered since
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import MissingArtifact
from pipeline.files import sha256_file, sha256_text, write_atomic

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
A = TypeVar("A")
_Visit: TypeAlias = Callable[[object], Json]

ARTIFACT_FILE = "artifact.json"
_PATH_KEY = "$path"


def save_artifact(artifact: object, folder: Path) -> None:
    """Write ``artifact.json`` into the folder that holds the artifact's files."""
    kind = type(artifact)
    record = {
        "type": f"{kind.__module__}:{kind.__qualname__}",
        "digest": content_digest(artifact),
        "files": {name: sha256_file(folder / name) for name in _files(folder)},
        "artifact": _encode(artifact, folder),
    }
    write_atomic(folder / ARTIFACT_FILE, json.dumps(record, indent=1))


def load_artifact(kind: type[A], folder: Path) -> A:
    """Read an artifact back; its paths are absolute.

    Raises:
        MissingArtifact: there is none, or it is damaged or of another type.
    """
    record = _record(folder)
    if record.get("type") != f"{kind.__module__}:{kind.__qualname__}":
        raise MissingArtifact(f"{folder}: holds a {record.get('type')}, not a {kind.__name__}.")
    try:
        return TypeAdapter(kind).validate_python(_decode(record.get("artifact"), folder.resolve()))
    except ValidationError as error:
        raise MissingArtifact(
            f"{folder / ARTIFACT_FILE}: is no readable {kind.__name__} "
            f"({error.error_count()} fields do not fit). Run its stage again."
        ) from error


def saved_type(folder: Path) -> str:
    """Return ``module:Class`` of the artifact in a folder."""
    return str(_record(folder).get("type"))


def saved_digest(folder: Path) -> str:
    """Return the content digest of the artifact in a folder: equal digests, equal artifacts."""
    return str(_record(folder).get("digest"))


def changed_files(folder: Path) -> list[str]:
    """Return what is missing or altered since the artifact was saved, with the reason."""
    files = _record(folder).get("files")
    if not isinstance(files, dict):
        return [f"{ARTIFACT_FILE} is damaged"]
    changed = []
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            changed.append(f"{name} is missing")
        elif sha256_file(path) != digest:
            changed.append(f"{name} was altered")
    return changed


def content_digest(artifact: object) -> str:
    """Return a hash over the artifact's fields, with each path replaced by what the file holds."""
    return sha256_text(json.dumps(_content(artifact), sort_keys=True))


def _record(folder: Path) -> dict[str, Json]:
    path = folder / ARTIFACT_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingArtifact(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise MissingArtifact(f"{path}: is damaged: {error}. Run its stage again.") from error
    if not isinstance(record, dict):
        raise MissingArtifact(f"{path}: is damaged. Run its stage again.")
    return record


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != ARTIFACT_FILE:
            yield path.relative_to(folder).as_posix()


def _encode(value: object, folder: Path) -> Json:
    """Make JSON of a value; paths inside the folder become relative, others absolute."""
    if isinstance(value, Path):
        absolute = value.resolve()
        inside = absolute.is_relative_to(folder.resolve())
        shown = absolute.relative_to(folder.resolve()) if inside else absolute
        return {_PATH_KEY: shown.as_posix()}
    return _walk(value, lambda item: _encode(item, folder))


def _content(value: object) -> Json:
    if isinstance(value, Path):
        if value.is_dir():
            return {name: sha256_file(value / name) for name in _files(value)}
        return sha256_file(value) if value.exists() else "missing"
    return _walk(value, _content)


def _walk(value: object, visit: _Visit) -> Json:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: visit(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): visit(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Sequence):
        return [visit(item) for item in value]
    raise TypeError(f"an artifact cannot hold a {type(value).__name__}")


def _decode(value: Json, folder: Path) -> Json:
    if isinstance(value, dict):
        if value.keys() == {_PATH_KEY}:
            return str(folder / str(value[_PATH_KEY]))
        return {key: _decode(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, folder) for item in value]
    return value
