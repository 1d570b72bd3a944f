"""Mixup and cutmix."""

from __future__ import annotations

import pytest
import torch

from stages.augment.mixing import mix_batch
from stages.augment.operations import Cutmix, Mixup


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (16, 20, 24, 3), dtype=torch.uint8)


def test_mixup_blends_by_the_stated_weight(images: torch.Tensor) -> None:
    mixed, mix = mix_batch(images, [Mixup(alpha=1.0)], (1, 2))
    assert mix is not None
    assert sorted(mix.partner.tolist()) == list(range(16))
    weight = mix.weight[:, None, None, None]
    expected = images * weight + images[mix.partner] * (1 - weight)
    assert (mixed - expected).abs().max() <= 0.51
    assert mixed.dtype == torch.uint8


def test_cutmix_pastes_a_rectangle_of_the_stated_share(images: torch.Tensor) -> None:
    mixed, mix = mix_batch(images, [Cutmix()], (1, 3))
    assert mix is not None
    own = (mixed == images).all(dim=-1)
    other = (mixed == images[mix.partner]).all(dim=-1)
    assert (own | other).all()
    changed = mix.partner != torch.arange(16)
    share = own.float().flatten(1).mean(dim=1)
    assert torch.allclose(share[changed], mix.weight[changed], atol=0.01)
    for inside in (~own)[changed]:
        rows, columns = inside.any(dim=1).sum(), inside.any(dim=0).sum()
        assert inside.sum() >= 0.95 * rows * columns


def test_weights_follow_the_beta_distribution(images: torch.Tensor) -> None:
    weights = []
    for number in range(200):
        _, mix = mix_batch(images, [Mixup(alpha=0.4)], (number,))
        assert mix is not None
        weights.append(mix.weight)
    together = torch.cat(weights)
    assert abs(together.mean() - 0.5) < 0.02
    assert abs(together.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.01


def test_batches_are_left_alone_as_often_as_stated(images: torch.Tensor) -> None:
    mixes = [mix_batch(images, [Mixup(p=0.25)], (number,)) for number in range(400)]
    untouched = [mixed for mixed, mix in mixes if mix is None]
    assert abs(len(untouched) / 400 - 0.75) < 0.07
    assert all(mixed is images for mixed in untouched)


def test_the_same_key_mixes_the_same_way(images: torch.Tensor) -> None:
    both = [Mixup(), Cutmix()]
    one, two = mix_batch(images, both, (5,)), mix_batch(images, both, (5,))
    assert torch.equal(one[0], two[0])
