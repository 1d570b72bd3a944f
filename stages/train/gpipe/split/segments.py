"""Segments: the pieces of a traced network as modules that use its own tensors.

Nothing is copied: a segment calls the network's own submodules, and reads single parameters,
buffers and training flags through a `StandIn` for the module that owns them.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, Generic, TypeVar

from torch import fx, nn

from stages.train.gpipe.split.cuts import Cut
from stages.train.gpipe.split.flow import Step
from stages.train.gpipe.split.sizes import pack, unpack

Item = TypeVar("Item")


class StandIn(nn.Module):
    """A module as one block sees it: the tensors that the block uses, and the training flag.

    Both live in the owner: what is moved, loaded or switched here, is there, and the reverse.
    """

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        own = self.__dict__  # past nn.Module, which would take the owner's other tensors in
        own["_owner"] = owner
        own["_parameters"] = _Some(owner._parameters)
        own["_buffers"] = _Some(owner._buffers)
        own["_non_persistent_buffers_set"] = owner._non_persistent_buffers_set

    def share(self, name: str) -> None:
        """Let the block use one tensor of the owner."""
        for tensors in (self.__dict__["_parameters"], self.__dict__["_buffers"]):
            tensors.names[name] = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_owner"], name)

    @property
    def training(self) -> bool:
        """Whether the owner is training."""
        return bool(self.__dict__["_owner"].training)

    @training.setter
    def training(self, mode: bool) -> None:
        if "_owner" in self.__dict__:  # nn.Module's constructor comes before it
            self.__dict__["_owner"].training = mode


class _Some(MutableMapping[str, Item], Generic[Item]):
    """Some items of a dictionary, read and replaced where they are."""

    def __init__(self, items: dict[str, Item]) -> None:
        self.items_of_owner = items
        self.names: dict[str, None] = {}

    def __getitem__(self, name: str) -> Item:
        if name not in self.names:
            raise KeyError(name)
        return self.items_of_owner[name]

    def __setitem__(self, name: str, item: Item) -> None:
        self.items_of_owner[name] = item

    def __delitem__(self, name: str) -> None:
        del self.names[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.names if name in self.items_of_owner)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def build(root: nn.Module, steps: Sequence[Step], start: Cut, stop: Cut) -> nn.Module:
    """Return the module that runs the steps between two cuts."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in start.carry:
        copies[node] = graph.placeholder(node.name)
    if start.sizes:
        copies |= unpack(graph, start.sizes)
    for step in steps[start.before : stop.before]:
        for source in step.node.all_input_nodes:
            if source.op == "get_attr" and source not in copies:
                copies[source] = graph.node_copy(source)
        copies[step.node] = graph.node_copy(step.node, copies.__getitem__)
    results = [copies[node] for node in stop.carry]
    if stop.sizes:
        results.append(pack(graph, results[0], [copies[node] for node in stop.sizes]))
    graph.output(results[0] if len(results) == 1 else tuple(results))
    segment = fx.GraphModule(nn.Module(), fx.Graph(), type(root).__name__)
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            _install(segment, root, str(node.target).split("."), node.op)
    segment.graph = graph
    return segment


def _install(segment: nn.Module, owner: nn.Module, path: Sequence[str], op: str) -> None:
    """Give a segment the part of the network at a path, and nothing beside it."""
    here = segment
    for name in path[:-1]:
        owner = getattr(owner, name)
        if name not in here._modules:
            here._modules[name] = StandIn(owner)
        here = here._modules[name] or here
        if here is owner:
            return  # the whole module is there already
    if op == "call_module":
        here._modules[path[-1]] = getattr(owner, path[-1])
    elif isinstance(here, StandIn):
        here.share(path[-1])
