"""Fused updates on a CPU: torch's kernels, without what surrounds them there.

    update = quick_update(optimizer, device)
    update()                            # what optimizer.step() does, to the bit

Two things cost more than the kernels do. `step` gathers its lists anew each time and counts in one
tensor for each weight, which is most of a small network's update. And the kernels first copy each
gradient that is not contiguous, and do not use the copy: half the update of a network with
convolutions in channels_last. Worse, a gradient that lies otherwise than its weight is added to the
wrong elements (torch 2.14, aten/src/ATen/native/cpu/Fused*Kernel.cpp). A flat view has neither
fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pipeline.device import Device

Tensors = list[torch.Tensor]


def quick_update(optimizer: torch.optim.Optimizer, device: Device) -> Callable[[], object]:
    """Return the fastest way to update weights on a device from their gradients."""
    if device.is_cuda or not optimizer.defaults.get("fused"):
        return optimizer.step
    return FusedUpdate(optimizer)


@dataclass
class FusedUpdate:
    """Updates weights by an optimizer with a fused kernel; its state stays the optimizer's."""

    optimizer: torch.optim.Optimizer
    _state: Mapping[torch.Tensor, object] | None = field(default=None, init=False)
    _groups: list[_Group] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._weights = [w for group in self.optimizer.param_groups for w in group["params"]]
        _hand_over_flat_gradients(self.optimizer)

    def __call__(self) -> None:
        """Update every weight that has a gradient."""
        if self._is_as_gathered():
            for group in self._groups:
                group.update()
        else:
            self._begin_momentum()
            self.optimizer.step()  # it also makes the state of a weight that comes anew
            self._gather()

    def _is_as_gathered(self) -> bool:
        if self._state is not self.optimizer.state:  # loading a state makes another one
            return False
        ready = sum(weight.grad is not None for weight in self._weights)
        return ready == sum(len(group.weights) for group in self._groups) and all(
            weight.grad is not None for group in self._groups for weight in group.weights
        )

    def _begin_momentum(self) -> None:
        """Give a momentum to every weight that learns: SGD lets a group begin only as a whole."""
        if not isinstance(self.optimizer, torch.optim.SGD):
            return
        for settings in self.optimizer.param_groups:
            learning = [weight for weight in settings["params"] if weight.grad is not None]
            for weight in learning if settings["momentum"] else ():
                state = self.optimizer.state[weight]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(weight)

    def _gather(self) -> None:
        self._groups, self._state = [], None
        if not all(map(_is_plain, self._weights)):
            return
        for settings in self.optimizer.param_groups:
            weights = [weight for weight in settings["params"] if weight.grad is not None]
            if not weights:
                continue
            states = [self.optimizer.state[weight] for weight in weights]
            kernel = _kernel_of(self.optimizer, settings, states)
            if kernel is None:
                return
            self._groups.append(_Group(settings, weights, kernel))
        self._state = self.optimizer.state


@dataclass(frozen=True, slots=True)
class _Group:
    """The weights of a parameter group that have a gradient."""

    settings: dict[str, Any]
    """The optimizer's own: its learning rate changes from step to step."""
    weights: Tensors
    kernel: Callable[[dict[str, Any], Tensors, Tensors], None]

    def update(self) -> None:
        gradients = [
            _flat(weight, weight.grad) for weight in self.weights if weight.grad is not None
        ]
        with torch.no_grad():
            self.kernel(self.settings, self.weights, gradients)


def _kernel_of(
    optimizer: torch.optim.Optimizer, settings: dict[str, Any], states: list[dict[str, Any]]
) -> Callable[[dict[str, Any], Tensors, Tensors], None] | None:
    """Return what updates the weights of these states, or None if only the optimizer can."""
    if isinstance(optimizer, torch.optim.Adam) and not settings["amsgrad"]:
        moments, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        counters = torch.stack([state["step"] for state in states])
        steps = list(counters.unbind())
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        return partial(_adam, counters, steps, moments, squares)
    if isinstance(optimizer, torch.optim.SGD) and settings["momentum"]:
        return partial(_sgd, [state["momentum_buffer"] for state in states])
    return None


def _adam(
    counters: torch.Tensor, steps: Tensors, moments: Tensors, squares: Tensors,
    settings: dict[str, Any], weights: Tensors, gradients: Tensors,
) -> None:  # fmt: skip
    counters.add_(1)
    beta1, beta2 = settings["betas"]
    kernel = torch._fused_adamw_ if settings["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        weights, gradients, moments, squares, [], steps, lr=settings["lr"], beta1=beta1,
        beta2=beta2, weight_decay=settings["weight_decay"], eps=settings["eps"], amsgrad=False,
        maximize=settings["maximize"],
    )  # fmt: skip


def _sgd(buffers: Tensors, settings: dict[str, Any], weights: Tensors, gradients: Tensors) -> None:
    torch._fused_sgd_(
        weights, gradients, buffers, weight_decay=settings["weight_decay"],
        momentum=settings["momentum"], lr=settings["lr"], dampening=settings["dampening"],
        nesterov=settings["nesterov"], maximize=settings["maximize"], is_first_step=False,
    )  # fmt: skip


def _hand_over_flat_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Make `step` see flat gradients too."""
    collect = optimizer._init_group  # type: ignore[attr-defined]

    def collect_flat(
        group: dict[str, Any], weights: Tensors, gradients: Tensors, *states: Tensors
    ) -> object:
        found = collect(group, weights, gradients, *states)
        gradients[:] = map(_flat, weights, gradients)
        return found

    optimizer._init_group = collect_flat  # type: ignore[attr-defined]


def _is_plain(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and type(weight) is torch.nn.Parameter


def _flat(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient in the order in which its weight lies in memory, contiguous."""
    if weight.is_contiguous() and gradient.is_contiguous():
        return gradient
    if gradient.device.type != "cpu" or type(gradient) is not torch.Tensor:
        return gradient  # other kernels look at strides
    if not (_is_channels_last(weight) and _is_channels_last(gradient)):
        gradient = torch.empty_like(weight).copy_(gradient)
    return gradient.permute(0, 2, 3, 1) if _is_channels_last(gradient) else gradient


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
