"""SlotCourier: passes carries on by copying them into shared memory, where the neighbour uses them.

Every micro-batch of a step has slots of its own, so nobody ever waits for a free one, and what was
received need not be copied: it stays as it is until the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from stages.train.gpipe.bell import Listener, Ringer
from stages.train.gpipe.cell import Grads
from stages.train.gpipe.chain import Carry
from stages.train.gpipe.courier import Stamps
from stages.train.gpipe.messages import Slots
from stages.train.gpipe.shared import Place, Shared


@dataclass(frozen=True, slots=True)
class Bells:
    """Rings between a stage and its neighbours; None where there is no neighbour."""

    input_ready: Listener | None = None
    output_ready: Ringer | None = None
    output_grad_ready: Listener | None = None
    input_grad_ready: Ringer | None = None


@dataclass
class SlotCourier:
    """Brings and takes what the stage of this process works on."""

    bells: Bells
    timeout_s: float
    waits: Stamps
    """One number on the board: 1 while this stage waits."""
    before_backward: Callable[[], None] = lambda: None
    """Done when the first backward pass could begin, which is when a stage has time."""
    _inputs: list[Carry] = field(default_factory=list)
    _input_grads: list[Grads] = field(default_factory=list)
    _outputs: list[Carry] = field(default_factory=list)
    _output_grads: list[Grads] = field(default_factory=list)

    def use(self, slots: Slots, memory: Shared) -> None:
        """Work with these slots from now on."""
        self._inputs = [_open(places, memory) for places in slots.inputs]
        self._outputs = [_open(places, memory) for places in slots.outputs]
        self._input_grads = [_open_some(places, memory) for places in slots.input_grads]
        self._output_grads = [_open_some(places, memory) for places in slots.output_grads]

    def put_inputs(self, m: int, carry: Carry) -> None:
        """Fill the input slots of a stage that has no neighbour to do so."""
        _copy(carry, self._inputs[m])

    def take_forward(self, m: int) -> Carry:
        """Wait for the input of micro-batch m."""
        if self.bells.input_ready is not None:
            self._wait(self.bells.input_ready)
        return self._inputs[m]

    def give_forward(self, m: int, carry: Carry) -> None:
        """Pass the output of micro-batch m on."""
        if self.bells.output_ready is not None:
            _copy(carry, self._outputs[m])
            self.bells.output_ready.ring()

    def take_backward(self, m: int) -> Grads | None:
        """Wait for the gradients of what was passed on; None on the last stage."""
        if m == 0:
            self.before_backward()
        if self.bells.output_grad_ready is None:
            return None
        self._wait(self.bells.output_grad_ready)
        return self._output_grads[m]

    def give_backward(self, m: int, grads: Grads) -> None:
        """Pass the gradients of the input back."""
        if self.bells.input_grad_ready is None:
            return
        for grad, slot in zip(grads, self._input_grads[m], strict=True):
            if slot is None:
                continue
            if grad is None:
                slot.zero_()
            else:
                slot.copy_(grad)
        self.bells.input_grad_ready.ring()

    def _wait(self, listener: Listener) -> None:
        self.waits[0] = 1.0
        listener.wait(self.timeout_s)
        self.waits[0] = 0.0


def _open(places: Sequence[Place], memory: Shared) -> Carry:
    return tuple(map(memory.tensor, places))


def _open_some(places: Sequence[Place | None], memory: Shared) -> Grads:
    return tuple(None if place is None else memory.tensor(place) for place in places)


def _copy(carry: Carry, slots: Carry) -> None:
    for tensor, slot in zip(carry, slots, strict=True):
        torch.Tensor.copy_(slot, tensor)
