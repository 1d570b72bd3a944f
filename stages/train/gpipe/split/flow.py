"""Flow: one run of a traced network, watched: what lives where, what is written in place, cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from stages.train.gpipe.split.sizes import is_size

Storage = int


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the graph that computes something."""

    node: fx.Node
    value: Literal["tensor", "size", "other"]
    """What it computes: tensors cross a cut, sizes with some work, nothing else does."""
    length: int | None
    """How many numbers a size has that is a tuple."""
    storages: frozenset[Storage]
    """The memory that its value lies in, shared with views and bases."""
    state: tuple[tuple[str, torch.Tensor], ...]
    """The parameters, and the buffers that may change, which it uses."""
    flops: int


@dataclass(frozen=True, slots=True)
class Flow:
    """All steps of a network in order; the first is its input."""

    steps: tuple[Step, ...]
    output: fx.Node
    """The node whose value is the logits."""
    written: dict[Storage, int]
    """The number of the last step that writes to a memory in place."""


def watch(root: nn.Module, graph: fx.Graph, example: torch.Tensor) -> Flow:
    """Run a traced network once, without gradients."""
    watcher = _Watcher(root, graph)
    with watcher.flops:
        watcher.run(example)
    (output,) = (node for node in graph.nodes if node.op == "output")
    steps = tuple(watcher.step(node, flops) for node, flops in watcher.nodes)
    return Flow(steps, output.args[0], watcher.written)


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiplications and additions; torch's own counter hooks into autograd as well."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=result))
        return result


class _Watcher(fx.Interpreter):
    """Keeps every value alive, so that no memory is used twice."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.root = root
        self.flops = _Flops()
        self.nodes: list[tuple[fx.Node, int]] = []
        self.written: dict[Storage, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        inputs = [tensor for node in n.all_input_nodes for tensor in _tensors(self.env[node])]
        versions = [tensor._version for tensor in inputs]
        flops_before = self.flops.total
        result = super().run_node(n)
        if n.op in ("get_attr", "output"):
            return result
        always = _writes_in_training(n, self.root)
        for tensor, version in zip(inputs, versions, strict=True):
            if always or tensor._version != version:
                self.written[_storage(tensor)] = len(self.nodes)
        self.nodes.append((n, self.flops.total - flops_before))
        return result

    def step(self, node: fx.Node, flops: int) -> Step:
        value = self.env[node]
        storages = frozenset(_storage(tensor) for tensor in _tensors(value))
        state = tuple(self._state(node))
        return Step(
            node=node,
            value=_value(value),
            length=len(value) if isinstance(value, tuple) else None,
            storages=storages,
            state=state,
            flops=flops,
        )

    def _state(self, node: fx.Node) -> Iterator[tuple[str, torch.Tensor]]:
        if node.op == "call_module":
            path = str(node.target)
            module = self.root.get_submodule(path)
            yield from module.named_parameters(path)
            yield from module.named_buffers(path)
        for source in node.all_input_nodes:
            value = self.env[source]
            if source.op != "get_attr" or not isinstance(value, torch.Tensor):
                continue
            # A buffer that nobody writes to may stand in several blocks.
            if isinstance(value, nn.Parameter) or _storage(value) in self.written:
                yield str(source.target), value


def _value(value: object) -> Literal["tensor", "size", "other"]:
    if isinstance(value, torch.Tensor):
        return "tensor"
    return "size" if is_size(value) else "other"


def _tensors(value: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> Storage:
    return int(tensor.untyped_storage()._cdata)


def _writes_in_training(node: fx.Node, root: nn.Module) -> bool:
    """Return whether a node is a dropout in place, which writes in training only."""
    if node.op == "call_module":
        return getattr(root.get_submodule(str(node.target)), "inplace", False) is True
    return node.kwargs.get("inplace") is True
