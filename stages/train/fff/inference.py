"""Inference: fast feedforward layers with packed weights, for use and not for training.

pack_layers(network)               # in place; answers stay, and take a tenth of the time
pack_layers(network, "int8")       # a quarter of the memory
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stages.train.fff import cmm
from stages.train.fff.layer import FFF, fast_layers
from stages.train.fff.packed import Layout, Weights, activation_of, knows_activation, pack


class PackedFFF(nn.Module):
    """What an `FFF` answers in evaluation, from records that a kernel reads; takes any dimensions.

    `torch.compile` and `torch.export` see the operator ``dlpipe::cmm``.
    """

    def __init__(self, layer: FFF, weights: Weights = "fp32") -> None:
        """Pack a layer; it is not changed, and later changes of it are not seen.

        Args:
            layer: trained.
            weights: fp32, bf16 (tokens are rounded to bf16 too) or int8 (by row, symmetric).

        Raises:
            ConfigError: kernels do not know its activation.
        """
        super().__init__()
        self.layout = Layout(
            layer.in_features, layer.out_features, layer.depth, layer.trees, weights,
            activation_of(layer.activation),
        )  # fmt: skip
        records = pack(self.layout, layer.w_in, layer.w_out, layer.b_in)
        self.register_buffer("records", records.to(layer.w_in.device))
        b_out = layer.b_out
        self.register_buffer("b_out", None if b_out is None else b_out.detach().clone())
        self.records: torch.Tensor
        self.b_out: torch.Tensor | None
        self.dense = layer.dense
        self._run: cmm.Run | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., I) to (..., O).

        Raises:
            ValueError: x has another number of columns.
            RuntimeError: a gradient is asked for.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "A packed layer has no gradient. Train the FFF, and pack it afterwards; or use "
                "torch.no_grad()."
            )
        if torch.compiler.is_compiling():
            out = self._operator(x.reshape(-1, self.layout.in_features))
            out = out.reshape(*x.shape[:-1], self.layout.out_features)
        else:  # the dispatcher would take longer than a token does
            if self._run is None:
                self._run = cmm.open_run(self.records, self._bias(), self.layout)
            out = self._run(x)
        if self.dense is not None:
            out = out + self.dense(x)
        return out if out.dtype is x.dtype else out.to(x.dtype)

    def extra_repr(self) -> str:
        """Describe the layer in a printed network."""
        layout = self.layout
        return (
            f"{layout.in_features}, {layout.out_features}, depth={layout.depth}, "
            f"trees={layout.trees}, {layout.weights} by {cmm.backend()}"
        )

    def _operator(self, tokens: torch.Tensor) -> torch.Tensor:
        layout = self.layout
        out: torch.Tensor = torch.ops.dlpipe.cmm(
            tokens, self.records, self._bias(), layout.out_features, layout.depth, layout.trees,
            layout.weights, layout.activation,
        )  # fmt: skip
        return out

    def _bias(self) -> torch.Tensor | None:
        """Return the outputs' bias as kernels take it, whatever the network was turned into."""
        return None if self.b_out is None else self.b_out.float()

    def _apply(self, *arguments: Any, **options: Any) -> PackedFFF:
        """Move to another device or kind, after which the records lie elsewhere."""
        self._run = None
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the kernel, which holds addresses."""
        return {**self.__dict__, "_run": None}


def pack_layers(module: nn.Module, weights: Weights = "fp32") -> list[str]:
    """Let packed layers take the place of a network's fast feedforward layers.

    Args:
        module: changed in place; it cannot be trained afterwards.
        weights: of the packed layers.

    Returns:
        The names of the layers.

    Raises:
        ConfigError: kernels do not know the activation of one.
    """
    layers = fast_layers(module)
    for name, layer in layers.items():
        module.set_submodule(name, PackedFFF(layer, weights))
    return list(layers)


@contextmanager
def packed_answers(module: nn.Module) -> Iterator[None]:
    """Let a network's fast layers answer by the native kernel in here, where there is one.

    That is in evaluation, and on a CPU. Weights are packed once: they must not change in here.
    """
    quick = [
        layer
        for layer in fast_layers(module).values()
        if layer.w_in.is_cpu
        and knows_activation(layer.activation)
        and cmm.backend().startswith("native")
    ]
    for layer in quick:
        packed = PackedFFF(layer)
        layer.answer = lambda x, packed=packed: packed(x.float())
    try:
        yield
    finally:
        for layer in quick:
            layer.answer = None
