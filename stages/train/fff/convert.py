"""Convert: fast feedforward layers that do what a trained network's dense layers do.

Each fast layer learns from what its dense layer takes in and gives out in the trained network, all
layers at once and each for itself; everything else is the trained network's own. Then all weights
learn together to give its logits (`distill`): errors of layers add up, and layers can make up for
each other's. Training from labels is the train loop's work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from pipeline.context import Context
from stages.train.fff.config import ConvertConfig, FffConfig
from stages.train.fff.conversion import Conversion
from stages.train.fff.distill import distill, mode_kept
from stages.train.fff.layer import FFF, fast_layers
from stages.train.fff.samples import Samples
from stages.train.fff.swap import Feedforward, chosen_layers
from stages.train.models.classifier import Classifier

_LEAST_STD = 1e-6


def convert(
    trained: Classifier,
    network: Classifier,
    settings: FffConfig,
    convert_settings: ConvertConfig,
    samples: Samples,
    ctx: Context,
) -> Conversion:
    """Teach fast layers what a trained network's dense ones do, then all weights what it answers.

    Args:
        trained: with the weights to start from.
        network: the same with fast layers; changed in place. Weights of other layers are copied.
        settings: of the fast layers.
        convert_settings: how long, and how fast.
        samples: what both learn from.
        ctx: of the stage, to be told and to be stopped by.

    Returns:
        How well they do it, in the network's order.

    Raises:
        Interrupted: a stop was asked for; the network is half-way.
    """
    network.load_state_dict(_shared(trained, network), strict=False)
    stream = samples.endless()
    with mode_kept(trained, training=False):
        r2 = _learn_layers(trained, network, settings, convert_settings, stream, ctx)
    end_to_end = (
        distill(trained, network, convert_settings, stream, samples.held_back, ctx)
        if convert_settings.end_to_end_steps
        else None
    )
    return Conversion(r2=r2, end_to_end=end_to_end)


def _learn_layers(
    trained: Classifier,
    network: Classifier,
    settings: FffConfig,
    convert_settings: ConvertConfig,
    stream: Iterator[torch.Tensor],
    ctx: Context,
) -> dict[str, float]:
    """Teach each fast layer what its dense layer gives out; return R2 by name."""
    dense = chosen_layers(trained.body, settings)
    fast = fast_layers(network.body)
    weights = [weight for layer in fast.values() for weight in layer.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=convert_settings.lr, weight_decay=0.0)
    steps = convert_settings.steps
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    with watched(dense) as seen, ctx.events.progress("fff.convert, layers", steps) as bar:
        _look(trained, next(stream))
        lessons = [
            _Lesson.of(layer, seen[each.name][1], each.name)
            for each, layer in zip(dense, fast.values(), strict=True)
        ]
        for inputs in islice(stream, steps):
            ctx.stop.check()
            _look(trained, inputs)
            losses = [
                lesson.loss(*_some(*seen[lesson.name], convert_settings.tokens))
                for lesson in lessons
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            decay.step()
            bar.advance()
        _look(trained, next(stream))
        explained = [lesson.finish(*seen[lesson.name]) for lesson in lessons]
    return dict(zip(fast, explained, strict=True))


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A fast layer that learns what a dense one gives out, shifted and scaled to a variance of 1.

    How large outputs are differs by orders of magnitude between networks, and a learning rate fits
    one size. In the end the scale is multiplied into the weights.
    """

    layer: FFF
    mean: torch.Tensor
    """(O,); zeros where the layer has no bias to hold it."""
    std: torch.Tensor
    """A scalar: features keep their shares of the error."""
    name: str
    """Of the dense layer."""

    @classmethod
    def of(cls, layer: FFF, y: torch.Tensor, name: str) -> _Lesson:
        mean = y.mean(0) if layer.b_out is not None else torch.zeros_like(y[0])
        std = (y - mean).square().mean().sqrt().clamp(min=_LEAST_STD)
        return cls(layer, mean, std, name)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the squared error for tokens x (N, I) with outputs y (N, O)."""
        answer: torch.Tensor = self.layer(x)
        return (answer - (y - self.mean) / self.std).square().mean()

    @torch.no_grad()
    def finish(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Undo the scale, and return R2, how much of y the layer explains; at most 1."""
        layer = self.layer
        layer.w_out.mul_(self.std)
        if layer.dense is not None:
            last = layer.dense[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(self.std)
        if layer.b_out is not None:
            layer.b_out.mul_(self.std).add_(self.mean)
        variance = (y - y.mean(0)).square().mean().clamp(min=_LEAST_STD**2)
        return 1.0 - float((layer(x) - y).square().mean() / variance)


@contextmanager
def watched(layers: list[Feedforward]) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Keep what each feedforward layer took in and gave out last, both (tokens, features)."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    taken: dict[str, torch.Tensor] = {}
    handles = []
    for layer in layers:

        def take(_: nn.Module, inputs: tuple[Any, ...], name: str = layer.name) -> None:
            taken[name] = inputs[0].detach().flatten(0, -2)

        def give(_: nn.Module, __: Any, output: torch.Tensor, name: str = layer.name) -> None:
            seen[name] = taken[name], output.detach().flatten(0, -2)

        handles += [
            layer.first.register_forward_pre_hook(take),
            layer.second.register_forward_hook(give),
        ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _shared(trained: nn.Module, network: nn.Module) -> dict[str, torch.Tensor]:
    own = network.state_dict()
    return {
        name: tensor
        for name, tensor in trained.state_dict().items()
        if name in own and own[name].shape == tensor.shape
    }


def _look(trained: nn.Module, inputs: torch.Tensor) -> None:
    with torch.no_grad():
        trained(inputs)


def _some(x: torch.Tensor, y: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw some tokens: all of a batch are often more alike than they are worth."""
    if len(x) <= tokens:
        return x, y
    drawn = torch.randperm(len(x))[:tokens].to(x.device)
    return x[drawn], y[drawn]
