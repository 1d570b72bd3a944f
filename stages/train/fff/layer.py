"""FFF: a feedforward layer whose neurons form trees, of which a token visits one path each.

    layer = FFF(768, 768, depth=11)         # 4095 neurons; 12 of them work for a token
    layer = FFF(768, 768, depth=5, trees=8, dense_width=64)

Source: "Exponentially Faster Language Modelling" (arXiv 2311.10770): every node is a neuron that
contributes to the output, and the sign of its logit says where to go on. With `hardening`, training
mixes all paths by probabilities that it makes certain, as "Fast Feedforward Networks" do
(arXiv 2308.14711, section 3); evaluation takes one path.

Shapes: N tokens, I inputs, O outputs, T trees, L levels, n nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.functional import embedding_bag, linear

from pipeline.graph_forms import OperatorLibrary
from stages.train.fff import onnx_operator
from stages.train.fff.config import Form
from stages.train.fff.packed import activation_of, knows_activation
from stages.train.fff.penalties import add_penalty, imbalance, uncertainty
from stages.train.fff.routed import route
from stages.train.fff.tree import nodes_of, reached

LEAST_WORK_SAVED = 16
"""Neurons for each visited one, from which on a CPU gathers rows faster than it masks products."""


class FFF(nn.Module):
    """A fast feedforward layer; takes any leading dimensions, as `nn.Linear` does."""

    graph_forms = "gathered", "masked"
    """What a graph may do: gather the rows of a token's path, or compute all neurons and mask."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        depth: int,
        trees: int = 1,
        activation: nn.Module | None = None,
        *,
        bias: bool = True,
        dense_width: int = 0,
        form: Form = "auto",
        balance: float = 0.0,
        hardening: float = 0.0,
    ) -> None:
        """Make the layer with random weights.

        Args:
            in_features: I.
            out_features: O.
            depth: levels below the root; a tree has 2^(depth + 1) - 1 neurons.
            trees: side by side; their outputs add up.
            activation: of every neuron; GELU if left out.
            bias: of neurons and outputs.
            dense_width: neurons that work for every token, beside the trees.
            form: how training computes: visited neurons by ``gathered`` rows, or all of them
                ``masked``; evaluation gathers.
            balance: weight of the penalty for nodes that send most tokens one way.
            hardening: weight of the penalty for uncertain nodes; above 0, training mixes paths.
        """
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.depth, self.trees, self.form = depth, trees, form
        self.graph_form = "gathered"
        self.balance, self.hardening, self.dense_width = balance, hardening, dense_width
        neurons = trees * nodes_of(depth)
        self.activation = nn.GELU() if activation is None else activation
        self.w_in = nn.Parameter(torch.empty(neurons, in_features))
        self.w_out = nn.Parameter(torch.empty(neurons, out_features))
        self.b_in = nn.Parameter(torch.empty(neurons)) if bias else None
        self.b_out = nn.Parameter(torch.empty(out_features)) if bias else None
        self.dense: nn.Sequential | None = None
        if dense_width:
            self.dense = nn.Sequential(
                nn.Linear(in_features, dense_width, bias=bias),
                self.activation,
                nn.Linear(dense_width, out_features, bias=False),
            )
        self.leaf_counts: torch.Tensor | None = None
        """(T, leaves), tokens that ended there, while `usage.watched_leaves` looks."""
        self.answer: Callable[[torch.Tensor], torch.Tensor] | None = None
        """What computes in evaluation instead, in fp32, while `inference.packed_answers` lasts."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as `nn.Linear` does, for as many inputs as the neurons really have."""
        active = self.active + self.dense_width
        for tensor, fan_in in (
            (self.w_in, self.in_features),
            (self.b_in, self.in_features),
            (self.w_out, active),
            (self.b_out, active),
        ):
            if tensor is not None:
                nn.init.uniform_(tensor, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    @property
    def graph_operators(self) -> Mapping[str, OperatorLibrary]:
        """What a graph may do where ONNX Runtime has our operator, if that knows the activation."""
        known = knows_activation(self.activation)
        return {onnx_operator.FORM: onnx_operator.LIBRARY} if known else {}

    @property
    def active(self) -> int:
        """How many tree neurons work for a token."""
        return self.trees * (self.depth + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., I) to (..., O)."""
        if self.answer is not None and not self.training and self.leaf_counts is None:
            return self.answer(x)
        if torch.compiler.is_exporting() and self.graph_form == onnx_operator.FORM:
            return self._as_node(x)
        tokens = x.reshape(-1, self.in_features)
        if self.training and self.hardening:
            out = self._mixed(tokens)
        elif self._is_masked(tokens):
            out = self._masked(tokens)
        else:
            out = self._gathered(tokens)
        if self.b_out is not None:
            out = out + self.b_out
        if self.dense is not None:
            out = out + self.dense(tokens)
        return out.reshape(*x.shape[:-1], self.out_features)

    def dense_twin(self) -> nn.Module:
        """Return a dense layer with as many neurons, all of which work for every token."""
        neurons, bias = len(self.w_in) + self.dense_width, self.b_in is not None
        return nn.Sequential(
            nn.Linear(self.in_features, neurons, bias=bias),
            self.activation,
            nn.Linear(neurons, self.out_features, bias=bias),
        )

    def extra_repr(self) -> str:
        """Describe the layer in a printed network."""
        return (
            f"{self.in_features}, {self.out_features}, depth={self.depth}, trees={self.trees}, "
            f"{self.active} of {len(self.w_in)} neurons"
        )

    def _is_masked(self, tokens: torch.Tensor) -> bool:
        if torch.compiler.is_exporting():
            return self.graph_form == "masked"
        if not self.training:
            return False
        if self.form != "auto":
            return self.form == "masked"
        return tokens.is_cuda or len(self.w_in) < LEAST_WORK_SAVED * self.active

    def _as_node(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the exporter to ONNX writes as one node."""
        biases = [b for b in (self.b_in, self.b_out) if b is not None]
        out = torch.onnx.ops.symbolic(
            f"{onnx_operator.DOMAIN}::{onnx_operator.NAME}",
            [x, self.w_in, self.w_out, *biases],
            {
                "depth": self.depth,
                "trees": self.trees,
                "activation": activation_of(self.activation),
            },
            dtype=torch.float32,
            shape=(*x.shape[:-1], self.out_features),
            version=onnx_operator.VERSION,
        )
        return out if self.dense is None else out + self.dense(x)

    def _gathered(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.to(self.w_in.dtype)  # which way to go is decided at full precision
            logits, path = route(tokens, self.w_in, self.b_in, depth=self.depth, trees=self.trees)
            hidden: torch.Tensor = self.activation(logits)  # (N, T, L)
            if self.training and self.balance:
                add_penalty(self.balance * imbalance(logits, path, len(self.w_in)))
            if self.leaf_counts is not None:
                self._count(path)
            if torch.compiler.is_exporting():  # graphs have no bag of embeddings
                return (self.w_out[path.flatten(1)] * hidden.flatten(1).unsqueeze(-1)).sum(1)
            return embedding_bag(
                path.flatten(1), self.w_out, per_sample_weights=hidden.flatten(1), mode="sum"
            )

    def _masked(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self._all_logits(tokens)
        with torch.no_grad():
            mask = reached((logits > 0).to(logits.dtype), self.depth)
        if self.training and self.balance:
            path = mask.flatten(1).nonzero()[:, 1].view(len(tokens), self.trees, self.depth + 1)
            along = logits.flatten(1).gather(1, path.flatten(1)).view_as(path)
            add_penalty(self.balance * imbalance(along, path, len(self.w_in)))
        hidden = self.activation(logits) * mask
        return linear(hidden.flatten(1), self.w_out.t())

    def _mixed(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self._all_logits(tokens)
        share = reached(torch.sigmoid(logits), self.depth)
        add_penalty(self.hardening * uncertainty(logits, share, self.depth))
        return linear((self.activation(logits) * share).flatten(1), self.w_out.t())

    def _all_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = linear(tokens, self.w_in, self.b_in)
        by_tree: torch.Tensor = logits.view(-1, self.trees, nodes_of(self.depth))
        return by_tree

    def _count(self, path: torch.Tensor) -> None:
        assert self.leaf_counts is not None
        first = nodes_of(self.depth) - 2**self.depth
        for tree, counts in enumerate(self.leaf_counts):
            leaves = path[:, tree, -1] - tree * nodes_of(self.depth) - first
            counts += torch.bincount(leaves, minlength=len(counts))


def fast_layers(module: nn.Module) -> dict[str, FFF]:
    """Return the fast layers of a network by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, FFF)}
