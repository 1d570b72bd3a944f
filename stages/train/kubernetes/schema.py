"""Schemas: the form of a training job's objects, checked without a cluster.

ConfigMaps, and the Job inside every JobSet, by the official schemas (kubernetes-validate); the
objects of Kubeflow Trainer and JobSet around it by ``forms.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

from stages.train.kubernetes.job import Node, Object


def schema_problems(objects: Sequence[Object]) -> list[str]:
    """Return what the schemas object to."""
    problems = []
    for o in objects:
        identity = f"{o.get('kind')}/{_name(o)}"
        kind = f"{o.get('apiVersion')}/{o.get('kind')}"
        checks = _own(o, kind) if kind in _forms()["kinds"] else _official(o)
        problems += [f"{identity}: {problem}" for problem in checks]
    return problems


def _own(o: Object, kind: str) -> Iterator[str]:
    forms = _forms()
    schema = {
        "definitions": forms["definitions"],
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {}, "kind": {}, "metadata": {"$ref": "#/definitions/metadata"},
            "spec": forms["kinds"][kind],
        },
    }  # fmt: skip
    for error in jsonschema.Draft7Validator(schema).iter_errors(o):
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    for name, template in _jobs(o.get("spec")):
        own = template.get("metadata")
        metadata = {**(own if isinstance(own, Mapping) else {}), "name": name}
        head: dict[str, Node] = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}
        yield from _official({**template, **head})


def _official(o: Object) -> Iterator[str]:
    try:
        kubernetes_validate.validate(o, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(str(part) for part in error.path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{o.get('apiVersion')!r} has no such kind"


def _jobs(node: Node) -> Iterator[tuple[str, Object]]:
    """Yield the Job templates anywhere below a node."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if key != "replicatedJobs":
            yield from _jobs(value)
        elif isinstance(value, Sequence):
            for job in value:
                if isinstance(job, Mapping) and isinstance(job.get("template"), Mapping):
                    template = job["template"]
                    assert isinstance(template, Mapping)
                    yield str(job.get("name")), template


def _name(o: Object) -> str:
    metadata = o.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, Mapping) else ""


@cache
def _forms() -> dict[str, dict[str, dict[str, object]]]:
    forms: dict[str, dict[str, dict[str, object]]] = yaml.safe_load(
        Path(__file__).with_name("forms.yaml").read_text(encoding="utf-8")
    )
    return forms
