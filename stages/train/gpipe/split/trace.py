"""Trace: what a network computes, as a graph in which nothing of the example's size is frozen.

A module whose forward cannot be followed with symbols in place of tensors (it branches on a value,
asks whether it is training, makes constants, switches autocast or gradients) stays whole: it
becomes one node of the graph, and its code runs as its author wrote it. Only the outermost forward
has to be traceable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from timm.models import get_notrace_functions, is_notrace_module
from torch import fx, nn
from torch.fx.proxy import ParameterProxy, TraceError
from torch.nn.modules.batchnorm import _BatchNorm

from stages.train.gpipe.split.errors import OBSTACLES, CannotSplit, Obstacle

ROOT = "net"
"""The name of the network inside the graph: paths there begin with ``net.``"""

_FACTORIES = (torch.arange, torch.zeros, torch.ones, torch.full, torch.empty, torch.linspace)
"""Recorded when a size of the batch is among their arguments."""


class Entry(nn.Module):
    """The network behind one input, whatever other arguments with defaults it has."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        logits: torch.Tensor = self.net(images)
        return logits


def trace(entry: Entry) -> tuple[fx.Graph, tuple[Obstacle, ...]]:
    """Return the graph of a network, and why which of its modules stayed whole.

    Raises:
        CannotSplit: the forward of the network itself cannot be traced.
    """
    kind = type(entry.net).__name__
    try:
        tracer = _traced(entry, training=False)
        if tracer.asked and _text(tracer.graph) != _text(_traced(entry, training=True).graph):
            raise CannotSplit(kind, f"its forward ({kind}) takes another way while it is training")
    except OBSTACLES as error:
        if isinstance(error, CannotSplit):
            raise
        raise CannotSplit(kind, str(Obstacle("", kind, error))) from error
    return tracer.graph, tuple(tracer.obstacles)


def _traced(entry: Entry, *, training: bool) -> _Tracer:
    tracer = _Tracer(entry, training)
    with ExitStack() as stack:
        # Nothing is computed. What a forward switches off, has to be on to be noticed.
        stack.enter_context(torch.enable_grad())
        for device in _devices():
            stack.enter_context(torch.autocast(device, torch.float16))
        stack.enter_context(_reads_of_training(tracer))
        tracer.trace(entry)
    return tracer


def _text(graph: fx.Graph) -> list[str]:
    return [f"{node.op} {node.target} {node.args} {node.kwargs}" for node in graph.nodes]


class _Tracer(fx.Tracer):
    def __init__(self, entry: Entry, training: bool) -> None:
        functions = get_notrace_functions()  # type: ignore[no-untyped-call]
        super().__init__((math,), (*functions, *_FACTORIES))
        self._autowrap_search.append(torch)
        self.training = training
        self.asked = False
        """Whether the outermost forward asked if it is training; it was told `training`."""
        self.obstacles: list[Obstacle] = []
        self.inside: list[str] = []
        self._modes: tuple[object, ...] = ()
        self.paths = {id(module): path for path, module in entry.named_modules()}
        tensors = (*entry.named_parameters(), *entry.named_buffers())
        self._tensor_paths = {id(tensor): path for path, tensor in tensors}

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        path = self.path_of_module(m)
        if path != ROOT and self.is_leaf_module(m, path):
            return self.create_proxy("call_module", path, args, kwargs)
        if type(m) is nn.TransformerEncoder and len(args) == 1 and not kwargs:
            forward = partial(_layer_by_layer, m)
        last = next(reversed(self.graph.nodes), None)
        depth, own = len(self.inside), vars(m).copy()
        self._modes = self._modes or _modes()
        self.inside.append(path)
        try:
            result = forward(*args, **kwargs)
            self._check_unchanged(m, own)
        except OBSTACLES as error:
            vars(m).update(own)
            if path == ROOT:
                raise
            self.obstacles.append(Obstacle(path.removeprefix(f"{ROOT}."), type(m).__name__, error))
            self._forget_after(last)
            del self.inside[depth:]
            return self.create_proxy("call_module", path, args, kwargs)
        self.inside.pop()
        return result

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) is nn.TransformerEncoder:
            return False
        known: bool = is_notrace_module(type(m)) or isinstance(m, (_BatchNorm, nn.MaxPool2d))
        return known or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        path = self._tensor_paths.get(id(attr_val)) if self.inside else None
        if path is None:
            return attr_val
        known = partial(_KnownShape, self, name=path, param=attr_val)
        return self.create_proxy("get_attr", path, (), {}, proxy_factory_fn=known)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and not self._has_name(a):
            raise TraceError("it makes a tensor of its own, whose value would be frozen")
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if self.inside and _modes() != self._modes:
            raise TraceError("it switches autocast or gradients on or off")
        node = super().create_node(*args, **kwargs)
        node.meta["inside"] = self.inside[-1] if self.inside else ROOT
        return node

    def _has_name(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self._tensor_paths or tensor in self.tensor_attrs

    def _check_unchanged(self, module: nn.Module, own: dict[str, object]) -> None:
        changed = [k for k, v in vars(module).items() if own.get(k, module) is not v]
        if changed:
            raise TraceError(f"it writes to its own attribute '{changed[0]}'")

    def _forget_after(self, last: fx.Node | None) -> None:
        for node in reversed(self.graph.nodes):
            if node is last:
                break
            self.graph.erase_node(node)


def _layer_by_layer(encoder: nn.TransformerEncoder, tokens: fx.Proxy) -> fx.Proxy:
    """Run an encoder as its forward does without masks, which cannot be traced."""
    for layer in encoder.layers:
        tokens = layer(tokens)
    return tokens if encoder.norm is None else encoder.norm(tokens)


def _devices() -> tuple[str, ...]:
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def _modes() -> tuple[object, ...]:
    autocast = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _devices()]
    return (torch.is_grad_enabled(), *autocast)


class _KnownShape(ParameterProxy):
    """A parameter or buffer in traced code: its shape does not depend on the batch."""

    def __init__(self, tracer: _Tracer, node: fx.Node, name: str, param: torch.Tensor) -> None:
        fx.Proxy.__init__(self, node, tracer)
        self.param, self.name = nn.Parameter(param, requires_grad=False), name


class _TrainingFlag(fx.Proxy):
    """``self.training`` in traced code: an argument, or a branch of the outermost forward."""

    def __bool__(self) -> bool:
        tracer = self.tracer
        if not isinstance(tracer, _Tracer) or tracer.inside != [ROOT]:
            raise TraceError("it branches on whether it is training")
        tracer.asked = True
        return tracer.training


@contextmanager
def _reads_of_training(tracer: _Tracer) -> Iterator[None]:
    """Make ``self.training`` a symbol inside traced code: read when the block runs, not frozen."""

    def read(module: nn.Module) -> Any:
        path = tracer.paths.get(id(module)) if tracer.inside else None
        if path is None:
            return module.__dict__["training"]
        flag = partial(_TrainingFlag, tracer=tracer)
        return tracer.create_proxy("get_attr", f"{path}.training", (), {}, proxy_factory_fn=flag)

    def write(module: nn.Module, mode: bool) -> None:
        module.__dict__["training"] = mode

    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training
