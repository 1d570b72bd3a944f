"""Overrides: ``stages.train.epochs=3`` on the command line, spelled as the path in the YAML.

The value is read as YAML is, so types hold: ``epochs=3`` is an int, ``lr=1e-3`` a float and
``name="3"`` a text.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import ConfigError, Problem, nearest
from pipeline.yaml_source import Node, Place, parse_yaml

COMMAND_LINE = Place("command line")


def apply_overrides(root: Node, overrides: Sequence[str]) -> Node:
    """Return the tree with each ``path=value`` put in.

    Raises:
        ConfigError: an override has no ``=``, its value is no YAML, or its path leads nowhere.
    """
    problems: list[Problem] = []
    for override in overrides:
        try:
            root = _apply(root, override)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return root


def _apply(root: Node, override: str) -> Node:
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not path or not all(path.split(".")):
        raise ConfigError(
            [
                COMMAND_LINE.problem(
                    f"{override!r} is no override. Write it as stages.train.epochs=3."
                )
            ]
        )
    value = parse_yaml(text, file=f"command line, {path}")
    _refuse_bare_stage(root, path)
    return _put(root, path.split("."), value, path)


def _put(node: Node, keys: list[str], value: Node, path: str) -> Node:
    if not keys:
        return Node(value.value, Place("command line"), value.key_places)
    key, rest = keys[0], keys[1:]
    if isinstance(node.value, list):
        index = _index(node, key, path)
        items = list(node.value)
        if items[index].value == key and rest:  # a bare name: an entry with nothing set yet
            items[index] = Node({key: Node(None, items[index].place)}, items[index].place)
        items[index] = _put(items[index], _entry_keys(items[index], key) + rest, value, path)
        return Node(items, node.place)
    if node.value is None or isinstance(node.value, dict):
        values = dict(node.value or {})
        places = {**node.key_places}
        places.setdefault(key, COMMAND_LINE)
        values[key] = _put(values.get(key, Node(None, COMMAND_LINE)), rest, value, path)
        return Node(values, node.place, places)
    raise ConfigError(
        [
            COMMAND_LINE.problem(
                f"{key!r} cannot be set: what stands before it is the value {node.value!r}. "
                f"Replace the value: {path.rpartition('.')[0]}='{{{key}: ...}}'.",
                path,
            )
        ]
    )


def _refuse_bare_stage(root: Node, path: str) -> None:
    """Catch ``train.epochs=3``, where ``stages.train.epochs=3`` is meant."""
    first = path.split(".")[0]
    stages = root.value.get("stages") if isinstance(root.value, dict) else None
    names = (
        [_name(item) for item in stages.value] if stages and isinstance(stages.value, list) else []
    )
    if isinstance(root.value, dict) and first not in root.value and first in names:
        raise ConfigError(
            [COMMAND_LINE.problem(f"{first!r} is a stage. Did you mean 'stages.{path}'?", path)]
        )


def _index(node: Node, key: str, path: str) -> int:
    """Find a list item by its number, or a named entry (``- train: {...}``) by its name."""
    assert isinstance(node.value, list)
    names = [_name(item) for item in node.value]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(names):
        return int(key)
    known = [name for name in names if name]
    allowed = ", ".join(known) if known else f"0 to {len(names) - 1}"
    raise ConfigError(
        [
            COMMAND_LINE.problem(
                f"{key!r} is not in the list. Allowed: {allowed}.{nearest(key, known)}", path
            )
        ]
    )


def _name(item: Node) -> str:
    """Return a list item's name: itself when a text, its key when a one-key mapping."""
    if isinstance(item.value, str):
        return item.value
    if isinstance(item.value, dict) and len(item.value) == 1:
        return next(iter(item.value))
    return ""


def _entry_keys(item: Node, key: str) -> list[str]:
    """A named entry is one level deeper than the list item that holds it."""
    return [key] if isinstance(item.value, dict) and _name(item) == key else []
