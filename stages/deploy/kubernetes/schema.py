"""Schemas: the official form of Kubernetes objects, checked offline by kubernetes-validate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kubernetes_validate
import yaml

from stages.deploy.kubernetes.node import Object, text

_NO_SCHEMA = ("Kustomization", "ServiceMonitor")
"""Kinds that come with add-ons; the package has no schema of theirs."""


def schema_problems(objects: Sequence[Object], version: str | None = None) -> list[str]:
    """Return what the schemas of a Kubernetes version (by default the newest known) object to."""
    version = version or kubernetes_validate.latest_version()
    problems = []
    for o in objects:
        identity = f"{text(o, 'kind')}/{text(o, 'metadata', 'name')}"
        if text(o, "kind") in _NO_SCHEMA:
            continue
        try:
            kubernetes_validate.validate(o, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(str(part) for part in error.path)
            problems.append(f"{identity}: {place}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            problems.append(f"{identity}: {text(o, 'apiVersion')!r} has no such kind in {version}")
    return problems


def file_problems(paths: Sequence[Path], version: str | None = None) -> list[str]:
    """Return what the schemas object to in YAML files, as `write_manifests` leaves them."""
    return schema_problems([yaml.safe_load(path.read_bytes()) for path in paths], version)
