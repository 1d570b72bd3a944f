"""Routed: the logits along each token's path, with gradients for the visited neurons only.

    logits, path = route(x, w_in, b_in, depth=11, trees=1)

No gradient flows through the routing itself, as in UltraFastBERT (Belcak & Wattenhofer,
arXiv 2311.10770): a path is constant, and unvisited neurons get none. These are the gradients of
the dense layer with all other neurons masked, at the cost of the path alone.

Shapes: N tokens, I inputs, T trees, L levels, n nodes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import embedding_bag

from stages.train.fff.tree import nodes_of, roots


def route(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor | None, *, depth: int, trees: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and numbers of the visited nodes, both (N, T, L).

    Args:
        x: (N, I).
        w_in: (T n, I), the trees one after the other.
        b_in: (T n,).
        depth: levels below the root.
        trees: how many stand side by side.
    """
    if not torch.is_grad_enabled():  # plain operators, which exporters understand
        return _walk(x, w_in, b_in, depth, trees)
    logits, path = _Routed.apply(x, w_in, b_in, depth, trees)
    return logits, path


def _walk(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor | None, depth: int, trees: int
) -> tuple[torch.Tensor, torch.Tensor]:
    root = roots(trees, depth, x.device)
    place = torch.zeros((x.shape[0], trees), dtype=torch.int64, device=x.device)  # within its tree
    logits, path = [], []
    for _ in range(depth + 1):
        node = place + root
        logit = (w_in[node] * x.unsqueeze(1)).sum(-1)
        if b_in is not None:
            logit = logit + b_in[node]
        logits.append(logit)
        path.append(node)
        place = 2 * place + 1 + (logit > 0).to(torch.int64)
    return torch.stack(logits, dim=-1), torch.stack(path, dim=-1)


class _Routed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w_in: torch.Tensor,
        b_in: torch.Tensor | None,
        depth: int,
        trees: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits, path = _walk(x, w_in, b_in, depth, trees)
        ctx.save_for_backward(x, w_in, path)
        ctx.nodes, ctx.has_bias = trees * nodes_of(depth), b_in is not None
        ctx.mark_non_differentiable(path)
        return logits, path

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None, None]:
        x, w_in, path = ctx.saved_tensors
        of_logits = gradients[0]  # (N, T, L)
        of_x = of_w = of_b = None
        if ctx.needs_input_grad[0]:
            of_x = embedding_bag(
                path.flatten(1), w_in, per_sample_weights=of_logits.flatten(1), mode="sum"
            )
        if ctx.needs_input_grad[1]:
            of_w = torch.zeros_like(w_in)
            for tree in range(path.shape[1]):
                for level in range(path.shape[2]):
                    rows = x * of_logits[:, tree, level, None]
                    of_w.index_add_(0, path[:, tree, level], rows)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_b = x.new_zeros(ctx.nodes).index_add_(0, path.flatten(), of_logits.flatten())
        return of_x, of_w, of_b, None, None
