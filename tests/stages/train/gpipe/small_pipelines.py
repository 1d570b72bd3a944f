"""Small networks as chains, batches for them, and gradients to compare."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from pipeline.device import CPU
from stages.augment.batch import Batch, Mix
from stages.train.gpipe.cell import Recompute
from stages.train.gpipe.chain import Block, Chain
from stages.train.gpipe.devices import Devices
from stages.train.gpipe.orders import Schedule
from stages.train.gpipe.probe import probe
from stages.train.gpipe.setup import Setup
from stages.train.gradients import Gradients
from stages.train.precision import FP32, Precision

OFF = torch.amp.GradScaler("cpu", enabled=False)


def conv_net() -> nn.Sequential:
    """Convolutions without batch norm; in-place ReLUs, so that cuts meet them."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.GroupNorm(2, 4),
        nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.Identity(), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip


def dropout_net() -> nn.Sequential:
    """Dropout in several places, in-place too."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(108, 16), nn.Dropout(0.3), nn.GELU(), nn.Linear(16, 16),
        nn.Dropout(0.5, inplace=True), nn.LayerNorm(16), nn.Linear(16, 5),
    )  # fmt: skip


def norm_net() -> nn.Sequential:
    """Batch norms in the first place and behind others."""
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


NETS: dict[str, Callable[[], nn.Sequential]] = {
    "conv": conv_net, "dropout": dropout_net, "norm": norm_net,
}  # fmt: skip


def make(name: str, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return NETS[name]().to(dtype).train()


def chain_of(net: nn.Sequential) -> Chain:
    return Chain(tuple(Block(name, child) for name, child in net.named_children()))


def batch_of(samples: int, dtype: torch.dtype = torch.float32, *, mixed: bool = False) -> Batch:
    draw = torch.Generator().manual_seed(samples)
    mix = None
    if mixed:
        partner = torch.randperm(samples, generator=draw)
        mix = Mix(partner, torch.rand(samples, generator=draw))
    return Batch(
        torch.randn(samples, 3, 6, 6, generator=draw, dtype=dtype),
        torch.randint(5, (samples,), generator=draw), torch.arange(samples), mix,
    )  # fmt: skip


def setup_of(
    net: nn.Sequential,
    bounds: tuple[int, ...],
    micro_batches: int,
    *,
    schedule: Schedule = "gpipe",
    recompute: Recompute = "never",
    precision: Precision = FP32,
    timeout_s: float = 60,
) -> Setup:
    chain = chain_of(net)
    dtype = next(net.parameters()).dtype
    probed = probe(chain, batch_of(4, dtype).inputs, precision, CPU)
    return Setup(
        chain=chain, bounds=bounds, traits=probed.traits, micro_batches=micro_batches,
        schedule=schedule, recompute=recompute, precision=precision, device=CPU,
        label_smoothing=0.1, seed=3, timeout_s=timeout_s,
    )  # fmt: skip


def on_cpu(setup: Setup) -> Devices:
    return Devices(setup, [torch.device("cpu")] * setup.stages)


def even_bounds(blocks: int, stages: int) -> tuple[int, ...]:
    return tuple(k * blocks // stages for k in range(stages + 1))


Result = dict[str, torch.Tensor]


def learn(
    net: nn.Module,
    gradients: Gradients,
    batch: Batch,
    scaler: torch.amp.GradScaler = OFF,
    steps: int = 1,
) -> Result:
    """Return the loss, gradients and buffers after some steps without an update."""
    try:
        for step in range(steps):
            net.zero_grad()
            loss = gradients.backward(batch, scaler, step)
        found = {"loss": loss}
        for name, parameter in net.named_parameters():
            if parameter.grad is not None:
                found[f"grad of {name}"] = parameter.grad.clone()
        return found | {name: buffer.clone() for name, buffer in net.named_buffers()}
    finally:
        gradients.close()


def twin(net: nn.Sequential) -> nn.Sequential:
    return copy.deepcopy(net)


def assert_same_bits(mine: Result, theirs: Result) -> None:
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(mine[name], tensor), name
