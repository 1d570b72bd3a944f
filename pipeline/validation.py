"""Validation: pydantic's errors as problems: place, value, what is allowed, near miss."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator, Sequence
from typing import TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import Problem, choices, nearest
from pipeline.yaml_source import Node, Place

M = TypeVar("M", bound=BaseModel)

_LONGEST_VALUE = 80
_KINDS = {
    "literal_error": "",
    "model_type": "a mapping, {key: value}",
    "model_attributes_type": "a mapping, {key: value}",
    "dict_type": "a mapping, {key: value}",
    "list_type": "a list, [value, ...]",
    "tuple_type": "a list, [value, ...]",
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
}
"""What a value of a kind is called, by the error that says it is none."""
_IN_YAML = {"True": "true", "False": "false", "None": "null"}


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
    """Return one readable problem for each thing that is wrong.

    Where a value may be of several kinds, pydantic tells why it is none of each.
    """
    found = [
        (tuple(_yaml_keys(detail, node)), detail)
        for detail in error.errors(include_url=False)
        # It is short only because its items, reported by themselves, are wrong.
        if not (detail["type"] == "too_short" and detail["input"])
    ]
    kinds: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for keys, detail in found:
        if detail["type"] in _KINDS:
            kinds.setdefault(keys, []).append(detail)
    problems: dict[tuple[str, str], Problem] = {}
    for keys, detail in found:
        path = ".".join(filter(None, [prefix, *keys]))
        same_place = kinds.get(keys, [])
        is_of_kind = detail["type"] in _KINDS
        if is_of_kind and any(_is_nearer(other, at, keys) for at, other in found):
            continue
        if is_of_kind and len(same_place) > 1:
            message = _none_of(same_place)
        else:
            message = _message(detail, model, keys, also_allowed if len(keys) == 1 else ())
        place = find_place(node, keys, of_key=detail["type"] == "extra_forbidden")
        problems.setdefault((path, message), place.problem(message, path))
    return list(problems.values())


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


def _is_nearer(detail: ErrorDetails, at: tuple[str, ...], keys: tuple[str, ...]) -> bool:
    """Tell whether an error shows that the value at `keys` is of some kind that is allowed.

    Something in it is wrong then, or it is too large, and the other kinds are of no interest.
    """
    is_inside = len(at) > len(keys) and at[: len(keys)] == keys
    return is_inside or (at == keys and detail["type"] not in _KINDS)


def _yaml_keys(detail: ErrorDetails, node: Node) -> list[str]:
    """Keep of pydantic's location what is in the YAML; it also names union members."""
    loc = detail["loc"]
    keys: list[str] = []
    current: Node | None = node
    for position, part in enumerate(loc):
        if current is not None and isinstance(current.value, dict):
            missing = detail["type"] == "missing" and position == len(loc) - 1
            if part in current.value or missing:
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
            near = nearest(value.strip("'"), _literals(detail))
            return f"{value} is not allowed. Allowed: {_expected(detail)}.{near}"
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
        case kind if kind in _KINDS:
            return f"{value} is not allowed: must be {_KINDS[kind]}."
        case "json_invalid":
            return f"cannot be read: {detail['msg']}."
        case _:
            requirement = detail["msg"].removeprefix("Input ").removeprefix("should ")
            return f"{value} is not allowed: must {requirement}."


def _none_of(details: Sequence[ErrorDetails]) -> str:
    """Say of what kinds a value could be."""
    allowed = [_KINDS[detail["type"]] or _expected(detail) for detail in details]
    near = "".join(nearest(_shown(d["input"]).strip("'"), _literals(d)) for d in details)
    value = _shown(details[0]["input"])
    return f"{value} is not allowed: must be {', or '.join(dict.fromkeys(allowed))}.{near}"


def _expected(detail: ErrorDetails) -> str:
    """Return the values that are allowed, as they are written in YAML."""
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return re.sub(r"\b(True|False|None)\b", lambda word: _IN_YAML[word[0]], expected)


def _literals(detail: ErrorDetails) -> list[str]:
    return [part.strip(" '") for part in _expected(detail).replace(" or ", ",").split(",")]


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
