"""Splitting of timm's architectures: blocks train as the whole does, at two batch sizes."""

from __future__ import annotations

import pytest
import timm
import torch
from staged import assert_trains_alike

from stages.train.gpipe.split import split, state_names
from stages.train.models.classifier import ImageClassifier

NARROW = {"depth": 3, "embed_dim": 48, "num_heads": 3}
DROPS = {"drop_rate": 0.1, "drop_path_rate": 0.1}

# name, smallest image size, options
ARCHITECTURES: list[tuple[str, int, dict[str, object]]] = [
    ("resnet10t", 32, {"drop_rate": 0.1}),
    ("seresnet50", 32, {"layers": (1, 2, 1, 1), **DROPS}),
    ("res2next50", 32, {"layers": (1, 1, 1, 1)}),
    ("resnetv2_50", 32, {"layers": (1, 1, 1, 1)}),
    ("regnety_002", 32, DROPS),
    ("regnetx_002", 32, {}),
    ("convnext_atto", 32, DROPS),
    ("convnextv2_atto", 32, DROPS),
    ("efficientnet_b0", 32, DROPS),
    ("mobilenetv2_035", 32, DROPS),
    ("mobilenetv3_small_050", 32, {}),
    ("mobilenetv4_conv_small_035", 32, {}),
    ("mnasnet_small", 32, {}),
    ("tinynet_e", 32, {}),
    ("lcnet_050", 32, {}),
    ("ghostnet_050", 32, {}),
    ("rexnet_100", 32, {}),
    ("densenet121", 32, {"drop_rate": 0.1}),
    ("dpn48b", 32, {}),
    ("dla46_c", 32, {}),
    ("ese_vovnet19b_slim", 32, {}),
    ("hrnet_w18_small", 32, {}),
    ("inception_v3", 75, {"drop_rate": 0.1}),
    ("nf_regnet_b0", 32, {}),
    ("vit_tiny_patch16_224", 32, {"img_size": 32, **DROPS}),
    ("deit_tiny_distilled_patch16_224", 32, {"img_size": 32}),
    ("deit3_small_patch16_224", 32, {"img_size": 32, "depth": 3}),
    ("beit_base_patch16_224", 32, {"img_size": 32, **NARROW}),
    ("eva02_tiny_patch14_224", 28, {"img_size": 28, **DROPS}),
    ("cait_xxs24_224", 32, {"img_size": 32, "depth": 4}),
    ("convit_tiny", 64, {"img_size": 64}),
    ("xcit_nano_12_p16_224", 64, {"drop_path_rate": 0.1}),
    ("pit_ti_224", 64, {"img_size": 64}),
    ("pvt_v2_b0", 64, DROPS),
    ("twins_svt_small", 64, {"depths": (1, 1, 2, 1)}),
    ("swin_tiny_patch4_window7_224", 56, {"img_size": 56, "depths": (1, 1, 2, 1), **DROPS}),
    ("swinv2_tiny_window8_256", 64, {"img_size": 64, "depths": (1, 1, 2, 1)}),
    ("coatnet_pico_rw_224", 64, {"img_size": 64}),
    ("resmlp_12_224", 32, {"img_size": 32}),
    ("poolformer_s12", 32, {"drop_path_rate": 0.1}),
    ("inception_next_atto", 64, {}),
    ("mobilevit_s", 64, {}),
    ("edgenext_small", 64, {"drop_path_rate": 0.1}),
    ("levit_128", 224, {}),
    ("efficientformer_l1", 224, {"depths": (1, 1, 2, 3), "drop_path_rate": 0.1}),
]


def images(n: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("name", "size", "options"), ARCHITECTURES, ids=[name for name, *_ in ARCHITECTURES]
)
def test_the_blocks_train_as_the_whole_does(name, size, options):
    torch.manual_seed(0)
    body = timm.create_model(name, num_classes=5, **options)
    net = ImageClassifier(body, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    chain = split(net, images(2, size))
    assert len({block.name for block in chain.blocks}) == len(chain) > 8
    for n in (2, 3):
        assert_trains_alike(net, chain, images(n, size))
    used = [name for block in state_names(chain, net) for name in block]
    assert set(used) == set(net.state_dict())
    assert not {name for name, _ in net.named_parameters() if used.count(name) != 1}


def test_a_network_of_two_branches_is_cut_through_tuples():
    """One tensor at a time, crossvit is two blocks of which one holds all parameters."""
    torch.manual_seed(0)
    net = timm.create_model("crossvit_9_240", num_classes=5)
    chain = split(net, torch.zeros(1, 3, 240, 240))
    whole = sum(p.numel() for p in net.parameters())
    assert max(sum(p.numel() for p in b.module.parameters()) for b in chain.blocks) < whole / 8
    assert_trains_alike(net, chain, torch.randn(2, 3, 240, 240))
