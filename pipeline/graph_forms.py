"""Graph forms: modules that a graph can compute in several ways which answer the same.

What trains such a module does not know where its graph will run; what writes the graph does, and
takes the form that is fastest there. Neither needs to know the other.

    layer.graph_forms                  # ("gathered", "masked"): operators that any runtime has
    layer.graph_operators              # {"operator": OperatorLibrary(...)}: an operator of our own

A graph with operators of our own lies in a folder with their library, ``operators.so``, as it does
with weights that are too large for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pipeline.errors import BackendUnavailable

if TYPE_CHECKING:  # the engine itself needs no torch
    from torch.nn import Module

OPERATORS_FILE = "operators.so"
"""The library of operators, beside a graph that uses them."""
_ENTRY_POINT_GROUP = "dlpipe.operators"


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorLibrary:
    """A shared library of operators that ONNX Runtime loads beside a graph which uses them."""

    package: str
    """Dotted package in whose folder it is installed."""
    file: str
    why_not: str
    """What its absence means, and what to do about it: one or two sentences."""

    def path(self) -> Path | None:
        """Return where it is; None: it was not built."""
        spec = find_spec(self.package)
        folders = (spec and spec.submodule_search_locations) or []
        return next((p for p in (Path(f, self.file) for f in folders) if p.is_file()), None)

    def require(self) -> Path:
        """Return where it is.

        Raises:
            BackendUnavailable: it was not built.
        """
        path = self.path()
        if path is None:
            raise BackendUnavailable(f"{self.package}: {self.file} is not there. {self.why_not}")
        return path


@runtime_checkable
class HasGraphForms(Protocol):
    """A module that `torch.export` sees in the form that is set."""

    graph_forms: tuple[str, ...]
    """All forms of plain operators."""
    graph_form: str
    """The one that is set."""


@runtime_checkable
class HasOperatorForms(HasGraphForms, Protocol):
    """One that has forms beside those, for which a runtime needs a library."""

    @property
    def graph_operators(self) -> Mapping[str, OperatorLibrary]:
        """The further forms, and the library that each needs."""
        ...


@runtime_checkable
class HasDenseTwin(Protocol):
    """A module that is meant to be faster than an ordinary one, and makes that for comparison."""

    def dense_twin(self) -> Module:
        """Return an ordinary module of the same inputs, outputs and size, with random weights."""
        ...


def operator_libraries() -> list[OperatorLibrary]:
    """Return every installed library, from the entry points ``dlpipe.operators``."""
    return [point.load() for point in entry_points(group=_ENTRY_POINT_GROUP)]


def has_operators() -> bool:
    """Tell whether every library that is registered was built."""
    libraries = operator_libraries()
    return bool(libraries) and all(library.path() for library in libraries)


def operators_beside(graph: Path) -> Path | None:
    """Return the library of a graph's operators; None: it needs none."""
    path = graph.with_name(OPERATORS_FILE)
    return path if path.is_file() else None
