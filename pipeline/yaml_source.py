"""YAML with places: a file becomes plain values that remember their line and column.

Stricter than PyYAML: YAML 1.2 scalars (``yes`` is a string, ``1e-3`` is a float), no duplicate
keys, no merge keys, no tags that construct objects, and anchors cannot explode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml

from pipeline.errors import ConfigError, Problem

Plain: TypeAlias = "str | int | float | bool | list[Plain] | dict[str, Plain] | None"

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 60

_CORE = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: 1-based line and column of a file, or line 0 on the command line."""

    file: str
    line: int = 0
    column: int = 0

    def problem(self, message: str, path: str = "") -> Problem:
        """Return a problem at this place."""
        return Problem(
            message=message, path=path, file=self.file, line=self.line, column=self.column
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place; containers hold nodes."""

    value: str | int | float | bool | list[Node] | dict[str, Node] | None
    place: Place
    key_places: dict[str, Place] = field(default_factory=dict)
    """For a mapping: where each key stands."""

    def plain(self) -> Plain:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


class _Core(yaml.SafeLoader):
    """PyYAML's composer with the YAML 1.2 core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _pattern, _first in (
    ("bool", _BOOL, "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", _NULL, ["~", "n", "N", ""]),
):
    _Core.add_implicit_resolver(
        _CORE + _name, re.compile(rf"(?:{_pattern.pattern})\Z"), list(_first)
    )


def read_yaml(path: Path) -> Node:
    """Read a YAML file.

    Raises:
        ConfigError: it is missing, unreadable, not UTF-8, not YAML, or something this reader
        refuses.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder. Give the path of a YAML file.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.{_near_file(path)}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r}: is no path: {error}.") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES:,} bytes; that is no configuration.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}).") from error
    return parse_yaml(text, file=str(path))


def parse_yaml(text: str, *, file: str) -> Node:
    """Parse YAML text; `file` is what messages call it.

    Raises:
        ConfigError: as in `read_yaml`.
    """
    loader = None
    try:
        loader = _Core(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise ConfigError([place.problem(f"malformed YAML: {_reason(error)}.")]) from error
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise ConfigError([Place(file).problem(f"malformed YAML: {detail}.")]) from error
    except RecursionError as error:
        raise ConfigError([Place(file).problem("is nested too deeply.")]) from error
    finally:
        if loader is not None:
            loader.dispose()
    if root is None:
        return Node(None, Place(file, 1, 1))
    return _Builder(file).build(root)


@dataclass
class _Builder:
    """Turns PyYAML's nodes into ours; counts them, so that aliases cannot explode."""

    file: str
    count: int = 0
    open: list[int] = field(default_factory=list)
    """The nodes we are inside of, to see an alias that contains itself."""
    problems: list[Problem] = field(default_factory=list)

    def build(self, root: yaml.Node) -> Node:
        node = self.node(root)
        if self.problems:
            raise ConfigError(self.problems)
        return node

    def node(self, node: yaml.Node) -> Node:
        place = self.place(node)
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(
                [
                    place.problem(
                        f"expands to more than {MAX_NODES:,} values (anchors that multiply?)."
                    )
                ]
            )
        if id(node) in self.open:
            raise ConfigError([place.problem("an anchor contains itself.")])
        if len(self.open) > MAX_DEPTH:
            raise ConfigError([place.problem(f"is nested more than {MAX_DEPTH} levels deep.")])
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
                return self.mapping(node, place)
            if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
                return Node([self.node(item) for item in node.value], place)
            if isinstance(node, yaml.ScalarNode):
                return Node(self.scalar(node, place), place)
        finally:
            self.open.pop()
        self.refuse_tag(node, place)
        return Node(None, place)

    def mapping(self, node: yaml.MappingNode, place: Place) -> Node:
        values: dict[str, Node] = {}
        places: dict[str, Place] = {}
        for key_node, value_node in node.value:
            key_place = self.place(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _CORE + "str":
                shown = getattr(key_node, "value", "")
                shown = shown if isinstance(shown, str) else "a list or mapping"
                self.problems.append(
                    key_place.problem(f"the key {shown!r} is no text. Keys must be text; quote it.")
                )
                continue
            key: str = key_node.value
            if key in places:
                self.problems.append(
                    key_place.problem(
                        f"the key {key!r} stands twice in one mapping; first in line "
                        f"{places[key].line}. Remove one of them."
                    )
                )
                continue
            if key == "<<":
                self.problems.append(
                    key_place.problem(
                        "merge keys ('<<') are not part of YAML 1.2. Write the keys out."
                    )
                )
                continue
            values[key] = self.node(value_node)
            places[key] = key_place
        return Node(values, place, places)

    def scalar(self, node: yaml.ScalarNode, place: Place) -> str | int | float | bool | None:
        text: str = node.value
        kind = node.tag.removeprefix(_CORE)
        try:
            match kind:
                case "str":
                    return text
                case "int":
                    return _integer(text)
                case "float":
                    return _number(text)
                case "bool" if _BOOL.fullmatch(text):
                    return text.lower() == "true"
                case "null" if _NULL.fullmatch(text):
                    return None
        except ValueError:
            self.problems.append(place.problem(f"{text[:40]!r} is no usable {kind}."))
            return None
        self.refuse_tag(node, place)
        return None

    def refuse_tag(self, node: yaml.Node, place: Place) -> None:
        tag = node.tag.replace(_CORE, "!!")
        self.problems.append(
            place.problem(
                f"the tag {tag!r} is not allowed: a configuration holds plain values only."
            )
        )

    def place(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)


def _integer(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def _number(text: str) -> float:
    lowered = text.lower()
    if lowered.endswith((".inf", ".nan")):
        return (
            math.copysign(math.inf, -1 if text[0] == "-" else 1) if "inf" in lowered else math.nan
        )
    return float(text)


def _reason(error: yaml.MarkedYAMLError) -> str:
    return " ".join(part for part in (error.context, error.problem) if part)


def _near_file(path: Path) -> str:
    """Suggest files of a similar name, or the YAML files that are there."""
    from difflib import get_close_matches

    try:
        there = list(_yaml_files(path.parent))
    except OSError:
        return ""
    close = get_close_matches(path.name, there, n=1, cutoff=0.5)
    return f" Did you mean '{path.parent / close[0]}'?" if close else ""


def _yaml_files(folder: Path) -> Iterator[str]:
    return (p.name for p in folder.iterdir() if p.suffix in {".yaml", ".yml"})
