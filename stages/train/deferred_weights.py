"""DeferredWeights: gradients of weights that are computed later than those of inputs.

    with later.deferred():        # the forward pass of one micro-batch
        outputs = block(inputs)
    outputs.backward(grad)        # the gradient of the inputs, which another stage waits for
    later.keep(m)
    ...
    later.work_off(m)             # the gradients of weights, which nobody waits for

So zero-bubble schedules fill with work the time in which a stage would wait (Qi et al., "Zero
Bubble Pipeline Parallelism", arXiv 2401.10241). Only linear layers and convolutions are split, in
which nearly all of that work is; everything else learns in the backward pass. What is deferred is
added to `grad` by the matrix product itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

Job: TypeAlias = Callable[[], None]
"""Adds one gradient to the `grad` of its weight."""


class DeferredWeights:
    """The weight gradients of one stage that are still to be computed, by micro-batch."""

    def __init__(self) -> None:
        self._found: list[Job] = []
        self._waiting: dict[int, list[Job]] = {}

    def deferred(self) -> TorchFunctionMode:
        """Return a context whose layers leave the gradients of their weights for later."""
        return _Deferring(self._found.append)

    def keep(self, m: int) -> None:
        """Put what the backward pass of micro-batch m has left aside."""
        self._waiting[m] = self._found[:]
        self._found.clear()

    def work_off(self, m: int) -> None:
        """Compute what is left of micro-batch m; a second call does nothing."""
        jobs = self._waiting.pop(m, [])
        with torch.no_grad():
            for place, job in enumerate(jobs):
                job()
                jobs[place] = _nothing  # lets go of what it was computed from

    def clear(self) -> None:
        """Forget everything, as after a step that failed."""
        self._found.clear()
        self._waiting.clear()


def _nothing() -> None:
    pass


class _Deferring(TorchFunctionMode):
    """Runs linear layers and convolutions by the functions below, wherever they are called."""

    def __init__(self, leave: Callable[[Job], None]) -> None:
        super().__init__()
        self._leave = leave

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is linear or func is torch.conv2d:
            split = _linear if func is linear else _conv2d
            result = split(self._leave, *args, **(kwargs or {}))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


def _linear(
    leave: Callable[[Job], None],
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor | None:
    if input.dim() < 2 or not _can_wait(weight, bias):
        return None
    result: torch.Tensor = _Linear.apply(*_cast(input, weight, bias), weight, leave, bias)
    return result


def _conv2d(
    leave: Callable[[Job], None],
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
    shape = (_pair(stride), _pair(padding), _pair(dilation), False, [0, 0], groups)
    result: torch.Tensor = _Convolution.apply(
        *_cast(input, weight, bias), weight, leave, bias, shape
    )
    return result


def _can_wait(weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether nobody but an optimizer asks for the gradients."""
    if not torch.is_grad_enabled():
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


def _cast(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return what autocast would compute with; the casts of weights without a graph."""
    kind = input.device.type
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if not torch.is_autocast_enabled(kind) or input.dtype == torch.float64:
        return input, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class _Linear(torch.autograd.Function):
    """x (..., I), weight (O, I) -> (..., O); the parameters tie it to the graph and get nothing."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        parameter: nn.Parameter,
        leave: Callable[[Job], None],
        shift: nn.Parameter | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.parameters, ctx.leave = (parameter, shift), leave  # type: ignore[attr-defined]
        with torch.autocast(x.device.type, enabled=False):
            result = linear(x, weight, bias)
        # With more than two axes it may be a view of rows, in which nothing could write in place.
        own: torch.Tensor = torch.ops.aten._unsafe_view(result, result.shape)
        return own

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        parameter, shift = ctx.parameters

        def job() -> None:
            rows = grad.flatten(0, -2)
            _add_product(parameter, rows.t(), x.flatten(0, -2))
            if shift is not None:
                _add(shift, rows.sum(0))

        ctx.leave(job)
        return (grad @ weight if ctx.needs_input_grad[0] else None, *[None] * 5)


class _Convolution(torch.autograd.Function):
    """x (N, C, H, W), weight (O, C / groups, h, w) -> (N, O, ...)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        parameter: nn.Parameter,
        leave: Callable[[Job], None],
        shift: nn.Parameter | None,
        shape: tuple[object, ...],
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.parameters = (parameter, shift)  # type: ignore[attr-defined]
        ctx.leave, ctx.shape = leave, shape  # type: ignore[attr-defined]
        with torch.autocast(x.device.type, enabled=False):
            result: torch.Tensor = torch.ops.aten.convolution(x, weight, bias, *shape)
            return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (parameter, shift), shape = ctx.parameters, ctx.shape
        sizes = None if shift is None else list(shift.shape)

        def gradients(*wanted: bool) -> Sequence[torch.Tensor]:
            found: Sequence[torch.Tensor] = torch.ops.aten.convolution_backward(
                grad, x, weight, sizes, *shape, wanted
            )
            return found

        def job() -> None:
            _, of_weight, of_bias = gradients(False, True, shift is not None)
            _add(parameter, of_weight)
            if shift is not None:
                _add(shift, of_bias)

        ctx.leave(job)
        of_input = gradients(True, False, False)[0] if ctx.needs_input_grad[0] else None
        return (of_input, *[None] * 6)


def _add_product(parameter: nn.Parameter, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a matrix product to a gradient, in one pass over it where the types allow that."""
    if parameter.grad is not None and parameter.grad.dtype == left.dtype:
        parameter.grad.addmm_(left, right)
    else:
        _add(parameter, left @ right)


def _add(parameter: nn.Parameter, grad: torch.Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad.add_(grad)
    elif (grad.dtype, grad.stride()) == (parameter.dtype, parameter.stride()):
        parameter.grad = grad
    else:
        parameter.grad = torch.empty_like(parameter).copy_(grad)


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
