"""Node: the plain data that a Kubernetes object consists of, and how to walk it safely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Node: TypeAlias = "str | int | float | bool | Sequence[Node] | Mapping[str, Node] | None"
Object: TypeAlias = Mapping[str, Node]


def mapping(node: Node, *path: str) -> Object:
    """Return the mapping at a path; an empty one where there is none."""
    found = lookup(node, *path)
    return found if isinstance(found, Mapping) else {}


def sequence(node: Node, *path: str) -> Sequence[Node]:
    """Return the list at a path; an empty one where there is none."""
    found = lookup(node, *path)
    return found if isinstance(found, Sequence) and not isinstance(found, str) else ()


def text(node: Node, *path: str) -> str:
    """Return the scalar at a path as text; empty where there is none."""
    found = lookup(node, *path)
    return "" if found is None or isinstance(found, (Mapping, list, tuple)) else str(found)


def number(node: Node, *path: str) -> float | None:
    """Return the number at a path, or None."""
    found = lookup(node, *path)
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if is_number and isinstance(found, (int, float)) else None


def lookup(node: Node, *path: str) -> Node:
    """Return what stands at a path of keys, or None."""
    for key in path:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node
