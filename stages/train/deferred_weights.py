"""DeferredWeights: gradients of weights that are computed later than those of inputs.

    with later.deferred():         # the forward pass of one micro-batch
        outputs = block(inputs)
    with later.collecting(m):      # the gradient of the inputs, which another stage waits for
        outputs.backward(grad)
    ...
    later.work_off(m)              # the gradients of weights, which nobody waits for

So zero-bubble schedules fill with work the time in which a stage would wait (Qi et al., "Zero
Bubble Pipeline Parallelism", arXiv 2401.10241). Linear layers and two-dimensional convolutions of
PyTorch are split where Python calls them with parameters of their own; everything else learns in
the backward pass, also layers that dlpipe's own kernels compute. What is deferred is added to
`grad` by the matrix product itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from operator import index
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

Job: TypeAlias = Callable[[], None]
"""Adds the gradients of one layer to the `grad` of its parameters."""


class DeferredWeights:
    """The weight gradients of one stage that are still to be computed, by micro-batch."""

    def __init__(self) -> None:
        self.collected: list[Job] | None = None
        """Where layers leave their jobs; None: nobody will do them."""
        self._waiting: dict[int, list[Job]] = {}

    def deferred(self) -> TorchFunctionMode:
        """Return a context whose layers leave the gradients of their weights for later."""
        return _Deferring(self)

    @contextmanager
    def collecting(self, m: int) -> Iterator[None]:
        """Keep what the backward pass of micro-batch m leaves; any other one leaves nothing."""
        self.collected = self._waiting[m] = []
        try:
            yield
        finally:
            self.collected = None

    def work_off(self, m: int) -> None:
        """Compute what is left of micro-batch m; a second call does nothing."""
        jobs = self._waiting.pop(m, [])[::-1]
        with torch.no_grad():
            while jobs:
                jobs.pop()()  # and lets go of what it was computed from

    def clear(self) -> None:
        """Forget everything, as after a step that failed."""
        self._waiting.clear()


def deferring(later: DeferredWeights | None) -> AbstractContextManager[object]:
    """Return the context of a forward pass, for a stage that defers or does not."""
    return nullcontext() if later is None else later.deferred()


class _Deferring(TorchFunctionMode):
    """Runs the layers below in two parts where Python calls them."""

    def __init__(self, later: DeferredWeights) -> None:
        super().__init__()
        self._later = later

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is linear or func is torch.conv2d:
            split = _linear if func is linear else _conv2d
            result = split(self._later, *args, **(kwargs or {}))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


def _linear(
    later: DeferredWeights,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor | None:
    if input.dim() < 2 or not _can_wait(weight, bias):
        return None
    return _run(_Linear(), later, input, weight, bias)


def _conv2d(
    later: DeferredWeights,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    if input.dim() != 4 or isinstance(padding, str) or not _can_wait(weight, bias):
        return None
    layer = _Convolution((_pair(stride), _pair(padding), _pair(dilation), False, [0, 0], groups))
    return _run(layer, later, input, weight, bias)


def _can_wait(weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether nobody but an optimizer asks for the gradients."""
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return False
    # A checkpoint computes again without deferring, and would mix up what both have saved.
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        return False
    return all(_learns_alone(one) for one in (weight, bias) if one is not None)


def _learns_alone(parameter: torch.Tensor) -> bool:
    return (
        isinstance(parameter, nn.Parameter)
        and parameter.requires_grad
        and parameter.is_floating_point()
        and not parameter._backward_hooks
        and not parameter._post_accumulate_grad_hooks
    )


class _Layer(Protocol):
    """What a layer computes, and its gradients one by one."""

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor: ...

    def of_input(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor: ...

    def of_weight(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, onto: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the gradient, or `onto` if it could be added to that on the way."""
        ...

    def of_bias(self, grad: torch.Tensor) -> torch.Tensor: ...


class _Linear:
    """x (..., I), weight (O, I) -> (..., O)."""

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        result = linear(x, weight, bias)
        # With more than two axes it may be a view of rows, in which nothing could write in place.
        own: torch.Tensor = torch.ops.aten._unsafe_view(result, result.shape)
        return own

    def of_input(self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return grad @ weight

    def of_weight(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, onto: torch.Tensor | None
    ) -> torch.Tensor:
        rows, inputs = grad.flatten(0, -2).t(), x.flatten(0, -2)
        if onto is None or onto.dtype != rows.dtype:
            return rows @ inputs
        return onto.addmm_(rows, inputs)

    def of_bias(self, grad: torch.Tensor) -> torch.Tensor:
        return grad.flatten(0, -2).sum(0)


@dataclass(frozen=True, slots=True)
class _Convolution:
    """x (N, C, H, W), weight (O, C / groups, h, w) -> (N, O, ...)."""

    shape: tuple[object, ...]
    """Stride, padding and all that follows in `aten::convolution`."""

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        result: torch.Tensor = torch.ops.aten.convolution(x, weight, bias, *self.shape)
        return result

    def of_input(self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self._gradients(grad, x, weight, (True, False, False))[0]

    def of_weight(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, onto: torch.Tensor | None
    ) -> torch.Tensor:
        return self._gradients(grad, x, weight, (False, True, False))[1]

    def of_bias(self, grad: torch.Tensor) -> torch.Tensor:
        return grad.sum((0, 2, 3))

    def _gradients(
        self,
        grad: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        wanted: tuple[bool, bool, bool],
    ) -> Sequence[torch.Tensor]:
        found: Sequence[torch.Tensor] = torch.ops.aten.convolution_backward(
            grad, x, weight, None, *self.shape, wanted
        )
        return found


def _run(
    layer: _Layer,
    later: DeferredWeights,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Run a layer as autocast would; the casts of its parameters are left out of the graph."""
    own, shift = weight.detach(), None if bias is None else bias.detach()
    kind = input.device.type
    if torch.is_autocast_enabled(kind) and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        input, own, shift = (
            input.to(dtype),
            own.to(dtype),
            None if shift is None else shift.to(dtype),
        )
    result: torch.Tensor = _Split.apply(input, own, shift, weight, bias, layer, later)
    return result


class _Split(torch.autograd.Function):
    """A layer whose parameters tie it to the graph, and learn now or later."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        parameter: nn.Parameter,
        shift: nn.Parameter | None,
        layer: _Layer,
        later: DeferredWeights,
    ) -> torch.Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        ctx.rest = parameter, shift, layer, later  # type: ignore[attr-defined]
        return layer.forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        x, weight = ctx.saved_tensors
        parameter, shift, layer, later = ctx.rest
        of_input = layer.of_input(grad, x, weight) if ctx.needs_input_grad[0] else None
        if later.collected is None:
            of_bias = None if shift is None else layer.of_bias(grad)
            of_weight = layer.of_weight(grad, x, weight, None)
            return (of_input, None, None, of_weight, of_bias, None, None)

        def job() -> None:
            of_weight = layer.of_weight(grad, x, weight, parameter.grad)
            if of_weight is not parameter.grad:
                _add(parameter, of_weight)
            if shift is not None:
                _add(shift, layer.of_bias(grad))

        later.collected.append(job)
        return (of_input, *[None] * 6)


def _add(parameter: nn.Parameter, grad: torch.Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad.add_(grad)
    elif (grad.dtype, grad.stride()) == (parameter.dtype, parameter.stride()):
        parameter.grad = grad
    else:
        parameter.grad = torch.empty_like(parameter).copy_(grad)


def _pair(value: int | Sequence[int]) -> list[int]:
    return list(value) if isinstance(value, Sequence) else [index(value)] * 2
