"""Encoder: twelve layers of BERT-base's size, with dense and with fast feedforward layers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.feedforward.dense import onnxruntime_answer
from stages.train.fff.inference import pack_layers
from stages.train.fff.layer import fast_layers
from stages.train.fff.onnx_operator import FORM, LIBRARY
from stages.train.fff.swap import swap_feedforward

WIDTH, HEADS, NEURONS, WORDS = 768, 12, 3072, 128


def encoder_sides(layers: int, depth: int) -> dict[str, Callable[[torch.Tensor], object]]:
    """Return encoders with random weights, by name; all take (1, words, width).

    Args:
        layers: of the encoder.
        depth: of the trees that take the place of the dense layers.
    """
    dense = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            WIDTH, HEADS, NEURONS, dropout=0.0, activation="gelu", batch_first=True
        ),
        layers,
        enable_nested_tensor=False,
    ).eval()
    fast = copy.deepcopy(dense)
    swap_feedforward(fast, {"depth": depth, "trees": 1})
    packed = copy.deepcopy(fast.eval())
    pack_layers(packed)
    none = copy.deepcopy(dense)
    for layer in none.layers:
        layer.linear1, layer.linear2 = nn.Identity(), nn.Identity()
        layer.activation, layer.activation_relu_or_gelu = nn.Identity(), 0
    example = torch.randn(2, WORDS, WIDTH)
    sides: dict[str, Callable[[torch.Tensor], object]] = {
        "torch, dense": dense,
        "torch, cmm": packed,
        "torch, no feedforward layers": none,
    }
    for name, network in (("dense", dense), ("fff in plain operators", fast)):
        session = onnxruntime_answer(network, example)
        sides[f"onnxruntime, {name}"] = lambda x, session=session: session(x.numpy())
    library = LIBRARY.path()
    if library is not None:
        for layer in fast_layers(fast).values():
            layer.graph_form = FORM
        run = onnxruntime_answer(fast, example, library)
        sides["onnxruntime, fff as an operator"] = lambda x: run(x.numpy())
    return sides
