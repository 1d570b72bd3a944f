"""Splitting of small networks: what crosses, what stays together, and what cannot be cut."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from staged import assert_trains_alike
from torch import nn

from stages.train.gpipe.chain import Chain
from stages.train.gpipe.split import CannotSplit, PipelineBlocks, split, state_names
from stages.train.models.classifier import ImageClassifier

WIDTH, CLASSES = 6, 3


def numbers(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n)).to(dtype)


def names(chain: Chain) -> list[str]:
    return [block.name for block in chain.blocks]


class Skips(nn.Module):
    """Layer i adds the output of an earlier layer, however far back."""

    def __init__(self, sources: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in sources)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.sources = list(sources)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for layer, source in zip(self.layers, self.sources, strict=True):
            seen.append(torch.tanh(layer(seen[-1])) + seen[source])
        return self.head(seen[-1])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9).flatmap(lambda n: st.tuples(*(st.integers(0, i) for i in range(n)))))
def test_skip_connections_of_any_length_are_carried_along(sources):
    torch.manual_seed(0)
    net = Skips(sources).double()
    chain = split(net, numbers(2, torch.float64))
    assert len(chain) > 1
    for n in (1, 4):
        assert_trains_alike(net, chain, numbers(n, torch.float64))


def test_a_sequential_gives_its_layers_and_those_of_the_sequentials_inside():
    net = nn.Sequential(
        nn.Linear(WIDTH, WIDTH),
        nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())),
        nn.Linear(WIDTH, CLASSES),
    )
    chain = split(net, numbers(2))
    assert names(chain) == ["0", "1.0", "1.1.0", "1.1.1", "2"]
    assert chain.blocks[0].module is net[0]
    assert_trains_alike(net, chain, numbers(5))


def test_a_layer_of_a_sequential_that_holds_most_of_it_is_cut_too():
    net = nn.Sequential(Skips((0, 1, 0, 2)), nn.Linear(CLASSES, CLASSES))
    chain = split(net, numbers(2))
    assert names(chain) == ["0.layers.0", "0.layers.1", "0.layers.2", "0.layers.3", "0.head", "1"]
    assert_trains_alike(net, chain, numbers(3))


class TwoStreams(nn.Module):
    """Declares its blocks; two tensors cross between them, and one block is no submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > float("inf"):  # cannot be traced
            return x
        return self.right(torch.relu(self.left(x)) + x)

    def pipeline_blocks(self) -> Sequence[nn.Module | tuple[str, nn.Module]]:
        return [("both", _Both(self.left)), ("joined", _Sum(self.right))]


class _Both(nn.Module):
    def __init__(self, left: nn.Module) -> None:
        super().__init__()
        self.left = left

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.relu(self.left(x)), x


class _Sum(nn.Module):
    def __init__(self, right: nn.Module) -> None:
        super().__init__()
        self.right = right

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.right(a + b)


def test_declared_blocks_come_before_tracing():
    net = TwoStreams()
    assert isinstance(net, PipelineBlocks)
    chain = split(net, numbers(2))
    assert names(chain) == ["both", "joined"]
    assert state_names(chain, net) == (
        ("left.weight", "left.bias"),
        ("right.weight", "right.bias"),
    )
    assert_trains_alike(net, chain, numbers(3))


def test_declared_blocks_that_compute_something_else_are_an_error():
    class Wrong(TwoStreams):
        def pipeline_blocks(self):
            return [self.left, self.right]

    with pytest.raises(CannotSplit, match="'Wrong' cannot be cut.*gives another result"):
        split(Wrong(), numbers(2))


def test_declared_blocks_that_are_no_modules_are_an_error():
    class Wrong(TwoStreams):
        def pipeline_blocks(self):
            return [self.left, "right"]

    with pytest.raises(CannotSplit, match=r"pipeline_blocks\(\)\[1\] is 'right'"):
        split(Wrong(), numbers(2))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0:
            return self.one(x)
        return self.two(x)


def test_a_network_that_branches_on_values_is_an_error_that_shows_the_line():
    place = (
        r"'Branches' cannot be cut.*test_split.py:\d+: `if x.mean\(\) > 0:`.*pipeline_blocks\(\)"
    )
    with pytest.raises(CannotSplit, match=place):
        split(Branches(), numbers(2))


def test_a_module_that_branches_on_values_stays_whole():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Branches(), Branches()
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, x):
            return self.head(self.second(self.first(x)))

    net = Net()
    chain = split(net, numbers(2))
    assert names(chain) == ["first", "second", "head"]
    assert_trains_alike(net, chain, numbers(3))


def test_a_network_that_returns_no_tensor_is_an_error():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(CannotSplit, match="it returns a tuple"):
        split(Two(WIDTH, CLASSES), numbers(2))


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self, tie: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, WIDTH)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 11, bias=False)
        if tie == "head":
            self.head.weight = self.embed.weight
        if tie == "middle":
            self.middle[1].weight = self.middle[0].weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.middle:
            x = torch.tanh(layer(x))
        return self.head(x)


def test_a_parameter_tied_from_end_to_end_is_an_error_that_names_it():
    with pytest.raises(CannotSplit, match=r"'Tied' cannot be cut: .*embed\.weight"):
        split(Tied("head"), torch.arange(6).view(2, 3))
    sequence = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
    sequence[2].weight = sequence[0].weight
    with pytest.raises(CannotSplit, match=r"tied parameter '0\.weight'"):
        split(sequence, numbers(2))


def test_layers_that_share_a_parameter_stay_in_one_block():
    net = Tied("middle")
    tokens = torch.arange(6).view(2, 3)
    chain = split(net, tokens)
    assert names(chain) == ["embed", "middle", "middle.2", "head"]
    assert "middle.1.bias" in state_names(chain, net)[1]
    assert_trains_alike(net, chain, tokens)


def test_the_layers_of_a_transformer_encoder_are_blocks():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder = nn.Embedding(11, WIDTH), encoder
            self.head = nn.Linear(WIDTH, CLASSES)

        def forward(self, tokens):
            return self.head(self.encoder(self.embed(tokens)).mean(1))

    net = Net()
    chain = split(net, torch.arange(6).view(2, 3))
    assert names(chain) == ["embed", *(f"encoder.layers.{i}" for i in range(3)), "head"]
    assert_trains_alike(net, chain, torch.arange(8).view(2, 4))


def test_an_image_classifier_begins_with_its_normalization():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    net = ImageClassifier(body, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    chain = split(net, images[:2])
    assert names(chain) == ["normalize", "body.0", "body.1", "body.2"]
    assert state_names(chain, net)[1] == ("body.0.weight", "body.0.bias")
    assert_trains_alike(net, chain, images)
    net.channels_last = False
    assert_trains_alike(net, chain, images)


def test_another_process_finds_the_same_blocks():
    program = (
        "import timm, torch; from stages.train.gpipe.split import split;"
        "chain = split(timm.create_model('resnet10t'), torch.zeros(1, 3, 32, 32));"
        "print([(b.name, b.module.code) for b in chain.blocks])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
    chain = split(timm.create_model("resnet10t"), torch.zeros(1, 3, 32, 32))
    assert found.strip() == str([(block.name, block.module.code) for block in chain.blocks])
