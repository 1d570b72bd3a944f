"""Attention: in bf16 on an x86 CPU with bf16 units, as two matrix products and a softmax.

    with QuickAttention():
        logits = network(images)        # whatever calls scaled_dot_product_attention

torch's flash kernel for CPUs computes its backward pass in bf16 several times slower than in fp32;
plain matrix products make use of the units (torch 2.14.1, one core of a Xeon with AMX; ms forward
and backward, N images x heads x tokens x width of a head):

    16 x 6 x 17 x 64: 16.1 -> 3.4      4 x 6 x 197 x 64: 29.6 -> 12.1     1 x 6 x 577 x 64: 54 -> 24

and of a Zen 4, which has no AMX:

    16 x 6 x 17 x 64: 6.4 -> 1.2      8 x 12 x 128 x 64: 43 -> 12     4 x 12 x 512 x 64: 147 -> 96

They keep the N x H x T x T weights for the backward pass, which the kernel computes again, so long
sequences stay with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from stages.train.bf16_units import computes_in_bf16

MOST_TOKENS = 640
"""Of queries and of keys, up to which the weights are kept."""


class QuickAttention(TorchFunctionMode):
    """Computes attention in training as matrix products wherever that is faster."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer calls of `scaled_dot_product_attention`; leave all others alone."""
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and _suits(*args, **kwargs):
            return attend(*args, **kwargs)
        return func(*args, **kwargs)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Map queries (..., T, D), keys (..., S, D) and values (..., S, E) to (..., T, E), in bf16."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        query, key, value = (each.to(torch.bfloat16) for each in (query, key, value))
        scores = (query * scale) @ key.transpose(-2, -1)  # (..., T, S)
        if is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask.to(scores.dtype)
        weights = dropout(torch.softmax(scores, dim=-1), dropout_p)
        return weights @ value


def _suits(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> bool:
    return (
        computes_in_bf16(query)
        and max(query.shape[-2], key.shape[-2]) <= MOST_TOKENS
        and not kwargs.get("enable_gqa", False)
    )
