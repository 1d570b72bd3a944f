"""Average: timm's moving average of the weights, with its tensors listed once, not every step."""

from __future__ import annotations

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from stages.train.config import EmaConfig
from stages.train.layout import ALONE, Layout


class Average(ModelEmaV3):
    """Keeps an average of every float in a network's state, and copies of the counters."""

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        super().__init__(model, decay=config.decay, use_warmup=config.warmup)
        self.pair_with(model)

    def pair_with(self, model: nn.Module, layout: Layout = ALONE) -> None:
        """List the tensors of both networks anew, after a layout has spread them."""
        own = layout.own(list(self.module.state_dict().values()))
        its = layout.own(list(model.state_dict().values()))
        pairs = list(zip(own, its, strict=True))
        self._averaged = [own for own, _ in pairs if own.is_floating_point()]
        self._floats = [its for own, its in pairs if own.is_floating_point()]
        self._copied = [own for own, _ in pairs if not own.is_floating_point()]
        self._counters = [its for own, its in pairs if not own.is_floating_point()]

    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Move the average one step towards the model it was made of."""
        torch._foreach_lerp_(self._averaged, self._floats, weight=1.0 - self.get_decay(step))
        if self._copied:
            torch._foreach_copy_(self._copied, self._counters)
