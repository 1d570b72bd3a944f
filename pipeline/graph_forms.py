"""Graph forms: modules that a graph can compute in several ways which answer the same.

What trains such a module does not know where its graph will run; what writes the graph does, and
takes the form that is fastest there. Neither needs to know the other.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class HasGraphForms(Protocol):
    """A module that `torch.export` sees in the form that is set."""

    graph_forms: tuple[str, ...]
    """All forms."""
    graph_form: str
    """The one that is set."""
