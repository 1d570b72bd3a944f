"""Training through a chain of blocks that is cut everywhere, beside training of the whole."""

from __future__ import annotations

import torch
from torch import nn

from stages.train.gpipe.chain import Chain


def gradients(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def train_whole(net: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, dict]:
    net.zero_grad()
    torch.manual_seed(7)
    logits = net(inputs)
    logits.square().sum().backward()
    return logits, gradients(net)


def train_in_stages(chain: Chain, net: nn.Module, inputs: torch.Tensor):
    """Cut everywhere: each block gets leaves, as if the block before ran on another device."""
    net.zero_grad()
    torch.manual_seed(7)
    tape, carry = [], (inputs,)
    for block in chain.blocks:
        carry = tuple(t.detach().requires_grad_(t.requires_grad) for t in carry)
        before = [t.clone() for t in carry]
        results = block(carry)
        assert all(map(torch.equal, carry, before)), f"{block.name} overwrites its input"
        tape.append((carry, results))
        carry = results
    (logits,) = carry
    grads = [2 * logits.detach()]
    for inputs_of_block, results in reversed(tape):
        pairs = zip(results, grads, strict=True)
        pairs = [(t, g) for t, g in pairs if t.requires_grad and g is not None]
        torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
        grads = [t.grad for t in inputs_of_block]
    return logits, gradients(net)


def assert_trains_alike(net: nn.Module, chain: Chain, inputs: torch.Tensor) -> None:
    logits, grads = train_whole(net, inputs)
    staged_logits, staged_grads = train_in_stages(chain, net, inputs)
    assert torch.equal(staged_logits, logits)
    assert staged_grads.keys() == grads.keys()
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name, grad in grads.items():
        error = float((staged_grads[name] - grad).abs().max())
        assert error <= 1e-6 * largest, f"{name}: {error} beside {largest}"
