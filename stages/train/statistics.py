"""Statistics: what a forward pass writes into a network (those of batch norm), and how to undo it.

statistics.remember()
...                          # a forward pass
statistics.restore_where(bad)
"""

from __future__ import annotations

import torch
from torch import nn


class Statistics:
    """The state of a network that is no parameter, with a copy from before the step."""

    def __init__(self, module: nn.Module) -> None:
        own = {id(parameter) for parameter in module.parameters()}
        state = module.state_dict(keep_vars=True).values()
        self._now = [tensor for tensor in state if id(tensor) not in own]
        self._before = [tensor.clone() for tensor in self._now]

    def remember(self) -> None:
        """Copy what is there."""
        if self._now:
            torch._foreach_copy_(self._before, self._now)

    def restore(self) -> None:
        """Put back what was remembered."""
        if self._now:
            torch._foreach_copy_(self._now, self._before)

    def restore_where(self, bad: torch.Tensor) -> None:
        """Put it back if a number on the device is not zero, without waiting for the device."""
        if not self._now:
            return
        if bad.device.type == "cpu":  # there is nothing to wait for
            if bad.item():
                self.restore()
            return
        is_bad = bad.bool()
        for now, before in zip(self._now, self._before, strict=True):
            torch.where(is_bad, before, now, out=now)
