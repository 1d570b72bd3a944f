"""Validation: pydantic's errors as problems: place, value, what is allowed, near miss."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from typing import TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import Problem, choices, nearest
from pipeline.yaml_source import Node, Place

M = TypeVar("M", bound=BaseModel)

_LONGEST_VALUE = 80


def validate(model: type[M], node: Node) -> M:
    """Validate a tree strictly; JSON rules apply, so a list may fill a tuple and a text a path.

    Raises:
        ValidationError: as pydantic found it; `problems_of` makes it readable.
    """
    return model.model_validate_json(json.dumps(node.plain()))


def problems_of(
    error: ValidationError,
    model: type[BaseModel],
    node: Node,
    *,
    prefix: str,
    also_allowed: Sequence[str] = (),
) -> list[Problem]:
    """Return one readable problem for each thing pydantic found wrong."""
    problems = []
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # it is short only because its items, reported by themselves, are wrong
        keys = _yaml_keys(detail["loc"], node)
        path = ".".join(filter(None, [prefix, *keys]))
        message = _message(detail, model, keys, also_allowed if len(keys) == 1 else ())
        if path + message not in seen:
            seen.add(path + message)
            unknown_key = detail["type"] == "extra_forbidden"
            problems.append(find_place(node, keys, of_key=unknown_key).problem(message, path))
    return problems


def find_place(node: Node, keys: Sequence[str], *, of_key: bool = False) -> Place:
    """Return where the value (or the key) of a path stands, or the closest thing around it."""
    place = node.place
    for position, key in enumerate(keys):
        if isinstance(node.value, dict):
            place = node.key_places.get(key, place)
            if key not in node.value or (of_key and position == len(keys) - 1):
                return place
            node = node.value[key]
            place = node.place
        elif isinstance(node.value, list) and key.isdecimal() and int(key) < len(node.value):
            node = node.value[int(key)]
            place = node.place
    return place


def _yaml_keys(loc: tuple[int | str, ...], node: Node) -> list[str]:
    """Keep of pydantic's location what is in the YAML; it also names union members."""
    keys: list[str] = []
    current: Node | None = node
    for position, part in enumerate(loc):
        if current is not None and isinstance(current.value, dict):
            last = position == len(loc) - 1
            if part in current.value or last:
                keys.append(str(part))
                current = current.value.get(str(part))
        elif current is not None and isinstance(current.value, list) and isinstance(part, int):
            keys.append(str(part))
            current = current.value[part] if part < len(current.value) else None
    return keys


def _message(
    detail: ErrorDetails, model: type[BaseModel], keys: Sequence[str], also_allowed: Sequence[str]
) -> str:
    value = _shown(detail["input"])
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            allowed = [*_fields_at(model, keys[:-1]), *also_allowed]
            known = f" Allowed: {choices(allowed)}." if allowed else ""
            return f"unknown key {keys[-1]!r}.{known}{nearest(keys[-1], allowed)}"
        case "missing":
            return "required key is missing."
        case "literal_error":
            expected = str(context.get("expected", ""))
            names = [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
            near = nearest(value.strip("'"), names)
            return f"{value} is not allowed. Allowed: {expected}.{near}"
        case "value_error" | "assertion_error":
            reason = str(context.get("error", detail["msg"]))
            # A reason that shows the value needs no second showing; a mapping is no single value.
            shows = isinstance(detail["input"], dict) or str(detail["input"]) in reason
            return reason if shows else f"{value} is not allowed: {reason}"
        case "string_pattern_mismatch":
            meaning = _description(model, keys)
            return f"{value} is not allowed: must match {context['pattern']}.{meaning}"
        case "too_short":
            return f"{value} is not allowed: must have at least {context['min_length']} item(s)."
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{value} is not allowed: must be a mapping, {{key: value}}."
        case "tuple_type" | "list_type":
            return f"{value} is not allowed: must be a list, [value, ...]."
        case "json_invalid":
            return f"cannot be read: {detail['msg']}."
        case _:
            requirement = detail["msg"].removeprefix("Input ").removeprefix("should ")
            return f"{value} is not allowed: must {requirement}."


def _shown(value: object) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _fields_at(model: type[BaseModel], keys: Sequence[str]) -> list[str]:
    """Return the keys allowed in the mapping that a path leads to."""
    models = [model]
    for key in keys:
        if key.isdecimal():
            continue
        models = [
            inner
            for outer in models
            if key in outer.model_fields
            for inner in _models_in(outer.model_fields[key].annotation)
        ]
    return list(dict.fromkeys(name for found in models for name in found.model_fields))


def _description(model: type[BaseModel], keys: Sequence[str]) -> str:
    field = model.model_fields.get(keys[-1]) if len(keys) == 1 else None
    return f" {' '.join(field.description.split())}" if field and field.description else ""


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in {Union, types.UnionType} or get_args(annotation):
        for argument in get_args(annotation):
            yield from _models_in(argument)
