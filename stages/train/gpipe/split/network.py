"""Split a network: its declared blocks if it has any, traced blocks if not, and proof of both.

chain = split(module, images)       # one or two images suffice
[block.name for block in chain.blocks]      # ['normalize', 'body.conv1', 'body.layer1.0', ...]
state_names(chain, module)          # which entries of module.state_dict() each block uses
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from stages.train.gpipe.chain import Block, Chain
from stages.train.gpipe.split.declared import declared_blocks
from stages.train.gpipe.split.errors import CannotSplit
from stages.train.gpipe.split.segments import StandIn
from stages.train.gpipe.split.traced import traced_blocks
from stages.train.models.classifier import ImageClassifier


class Normalization(nn.Module):
    """The first block of an ImageClassifier: what it does to images before its body."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = StandIn(classifier)
        for name in ("scale", "shift"):
            self.classifier.share(name)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn uint8 (N, H, W, C) into normalized float32 (N, C, H, W)."""
        pixels: torch.Tensor = self.classifier.prepare(images)
        return pixels


def split(module: nn.Module, example: torch.Tensor) -> Chain:
    """Return a network as a chain of blocks that share its parameters and buffers.

    Blocks train, evaluate, move and load with the network: nothing is copied. No block writes to
    its input in place. Several tensors may cross between two blocks; the same network gives the
    same blocks in every process.

    Raises:
        CannotSplit: there is no place to cut, or the blocks compute something else.
    """
    with _evaluating(module):
        logits: object = module(example)
        if not isinstance(logits, torch.Tensor):
            kind, what = type(module).__name__, type(logits).__name__
            raise CannotSplit(kind, f"it returns a {what}, where one tensor of logits is needed")
        if isinstance(module, ImageClassifier):
            blocks = [Block("normalize", Normalization(module))]
            blocks += _blocks(module.body, "body.", module.prepare(example))
        else:
            blocks = _blocks(module, "", example)
        chain = Chain(tuple(blocks))
        _check(chain, module, example)
    return chain


def state_names(chain: Chain, module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return for each block the names in ``module.state_dict()`` of the tensors that it uses.

    A parameter stands at one block only; one that stands at none is not used by the network.
    """
    state = module.state_dict(keep_vars=True)
    return tuple(
        tuple(name for name, tensor in state.items() if id(tensor) in own)
        for own in (
            {id(tensor) for tensor in (*b.module.parameters(), *b.module.buffers())}
            for b in chain.blocks
        )
    )


def _blocks(net: nn.Module, prefix: str, example: torch.Tensor) -> list[Block]:
    blocks = declared_blocks(net, example)
    if blocks is None:
        blocks = traced_blocks(net, example)
    return [Block(prefix + block.name, block.module) for block in blocks]


def _check(chain: Chain, module: nn.Module, example: torch.Tensor) -> None:
    """Compare chain and network on the example and on a batch of another size."""
    for images in (example, torch.cat([example, example[:1]])):
        expected, found = module(images), chain(images)
        if not torch.allclose(found, expected, rtol=0, atol=0, equal_nan=True):
            raise CannotSplit(
                type(module).__name__,
                f"run block by block, it gives another result for {len(images)} images",
            )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
