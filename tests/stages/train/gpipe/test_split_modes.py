"""Blocks of a split network beside the network itself: in place, modes, autocast, state."""

from __future__ import annotations

import pytest
import torch
from staged import assert_trains_alike
from torch import nn

from stages.train.gpipe.chain import Chain
from stages.train.gpipe.split import split, state_names

WIDTH, CLASSES = 6, 3


def numbers(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n)).to(dtype)


def names(chain: Chain) -> list[str]:
    return [block.name for block in chain.blocks]


class InPlace(nn.Module):
    """Every second operation overwrites what the one before it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.3, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            y = layer(x).view(-1, WIDTH)
            y += x
            x = self.relu(self.drop(y))
        return x


def test_no_cut_comes_before_an_operation_in_place():
    net = InPlace()
    chain = split(net, numbers(2))
    assert names(chain) == [f"layers.{i}" for i in range(4)]
    assert_trains_alike(net, chain, numbers(5))


def test_layers_of_a_sequential_that_write_in_place_stay_with_the_layer_before():
    net = nn.Sequential(
        nn.Linear(WIDTH, WIDTH),
        nn.Flatten(),
        nn.Dropout(0.3, inplace=True),
        nn.ReLU(inplace=True),
        nn.Linear(WIDTH, CLASSES),
    )
    chain = split(net, numbers(2))
    assert names(chain) == ["0", "4"]
    assert_trains_alike(net, chain, numbers(5))


def test_a_declared_block_that_begins_in_place_works_on_a_copy():
    def block() -> nn.Module:
        class PreActivation(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.relu, self.layer = nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH)

            def forward(self, x):
                return self.layer(self.relu(x))

        return PreActivation()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), block(), block())

        def forward(self, x):
            return self.body(x)

        def pipeline_blocks(self):
            return list(self.body)

    net = Net()
    chain = split(net, numbers(2))
    assert names(chain) == ["body.0", "body.1", "body.2"]
    assert_trains_alike(net, chain, numbers(5))


class Modes(nn.Module):
    """Asks in three ways whether it is training; owns tensors itself; switches autocast inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("offset", torch.full((WIDTH,), 0.5))
        self.exact, self.noisy = _Exact(), _Noisy()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.layers[0](x))
        x = nn.functional.dropout(x, 0.5, self.training)
        x = self.layers[1](self.noisy(self.exact(x))) * self.gain
        return self.layers[2](x + self.offset)


class _Exact(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return x.float() @ x.float().mean(0).diag()


class _Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


@pytest.fixture
def modes() -> tuple[Modes, Chain]:
    torch.manual_seed(0)
    net = Modes()
    return net, split(net, numbers(2))


def test_the_mode_is_the_networks_at_run_time(modes):
    net, chain = modes
    assert net.training, "splitting leaves the mode as it was"
    assert_trains_alike(net, chain, numbers(5))
    net.eval()
    assert torch.equal(chain(numbers(5)), net(numbers(5)))
    for block in chain.blocks:
        block.module.train()
    assert net.layers[0].training
    assert not torch.equal(chain(numbers(5)), chain(numbers(5))), "dropout is on again"


def test_splitting_leaves_the_state_as_it_was(modes):
    fresh = Modes()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    split(fresh, numbers(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())


def test_autocast_from_outside_reaches_every_block(modes):
    net, chain = modes
    net.eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(numbers(5))
        assert logits.dtype == torch.bfloat16
        assert torch.equal(chain(numbers(5)), logits)


def test_what_is_loaded_or_moved_after_the_split_is_seen_by_the_blocks(modes):
    net, chain = modes
    other = Modes().state_dict()
    other["offset"] += 1
    net.eval().load_state_dict(other, assign=True)
    assert torch.equal(chain(numbers(3)), net(numbers(3)))
    net.exact = nn.Identity()
    net = Modes().eval()
    net.exact = nn.Identity()
    chain = split(net, numbers(2))
    net.double()
    inputs = numbers(3, torch.float64)
    assert chain(inputs).dtype == torch.float64
    assert torch.equal(chain(inputs), net(inputs))
    for block in chain.blocks:
        block.module.float()
    assert net.offset.dtype == net.gain.dtype == torch.float32, "a block moves the network's own"


def test_each_parameter_stands_at_one_block(modes):
    net, chain = modes
    used = [name for block in state_names(chain, net) for name in block]
    assert sorted(used) == sorted(net.state_dict())


def test_frozen_parameters_stay_without_gradients(modes):
    net, chain = modes
    net.layers[0].requires_grad_(False)
    net.norm.requires_grad_(False)
    assert_trains_alike(net, chain, numbers(5))
    assert net.layers[0].weight.grad is None
