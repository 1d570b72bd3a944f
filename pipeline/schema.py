"""JSON Schema of the configuration: editors complete keys and mark mistakes while typing."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pipeline.config import RunSettings
from pipeline.stage import load_stage, stage_table

Schema: TypeAlias = dict[str, object]

_INPUTS: Schema = {
    "description": "Names of earlier stages whose artifacts this one takes.",
    "type": "array",
    "items": {"type": "string"},
}


def config_schema() -> Schema:
    """Return the schema of a whole file, with every installed stage."""
    stages = {name: load_stage(name).Config for name in sorted(stage_table())}
    models: list[type[BaseModel]] = [RunSettings, *stages.values()]
    wanted: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (model, "validation") for model in models
    ]
    by_model, document = models_json_schema(wanted, ref_template="#/$defs/{model}")
    definitions = document["$defs"]
    entries = []
    for name, model in stages.items():
        definition = definitions[_target(by_model[(model, "validation")])]
        definition["properties"] |= {
            "uses": {"description": "The stage behind this name.", "type": "string"},
            "inputs": _INPUTS,
        }
        entries.append(
            _entry(name, {"anyOf": [{"$ref": _ref(definition, definitions)}, {"type": "null"}]})
        )
    top = definitions.pop(_target(by_model[(RunSettings, "validation")]))
    top["properties"]["stages"] = {
        "description": "The chain: each entry is one stage with its settings.",
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [*entries, {"enum": list(stages)}, _renamed()]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dlpipe configuration",
        **{key: value for key, value in top.items() if key != "title"},
        "required": ["name", "stages"],
        "$defs": definitions,
    }


def _entry(name: str, value: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {name: value},
        "required": [name],
        "additionalProperties": False,
    }


def _renamed() -> Schema:
    """A stage under a name of the user's own says with `uses` what it is."""
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": {
            "type": "object",
            "properties": {"uses": {"type": "string"}, "inputs": _INPUTS},
            "required": ["uses"],
        },
    }


def _target(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _ref(definition: Schema, definitions: dict[str, Schema]) -> str:
    name = next(key for key, value in definitions.items() if value is definition)
    return f"#/$defs/{name}"
