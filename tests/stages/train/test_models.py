"""Building networks: by timm's name, by a path of one's own, for small images."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import list_optimizers
from torchvision.transforms.v2.functional import normalize

from pipeline.errors import ConfigError
from stages.train.models.classifier import ImageClassifier
from stages.train.models.factory import build_model
from stages.train.models.names import model_problem, optimizer_problem, timm_names
from stages.train.models.stem import has_large_stem

DATA = {
    "classes": 5,
    "height": 32,
    "width": 32,
    "channels": 3,
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
}
TINY = DATA | {"height": 8, "width": 8, "channels": 1, "mean": (0.5,), "std": (0.2,)}


def test_normalization_is_torchvisions():
    images = torch.randint(0, 256, (3, 7, 9, 3), dtype=torch.uint8)
    ours = ImageClassifier(torch.nn.Identity(), DATA["mean"], DATA["std"]).normalize(images)
    theirs = normalize(
        images.permute(0, 3, 1, 2).float() / 255, list(DATA["mean"]), list(DATA["std"])
    )
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-6)


def test_the_cast_is_the_first_operation_of_the_graph():
    module = ImageClassifier(torch.nn.Flatten(), (0.5,), (0.2,))
    images = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    calls = [
        node
        for node in torch.export.export(module, (images,)).graph.nodes
        if node.op == "call_function" and "assert" not in str(node.target)
    ]
    assert "to" in str(calls[0].target)
    assert calls[0].meta["val"].dtype == torch.float32
    assert "permute" in str(calls[1].target)


def test_mean_and_std_are_no_weights():
    assert not any(
        "scale" in n or "shift" in n for n in build_model("test_resnet", **DATA).state_dict()
    )


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "resnet18"])
def test_a_timm_model_takes_size_channels_and_classes_from_the_data(name):
    network = build_model(name, **DATA | {"channels": 1, "mean": (0.5,), "std": (0.2,)})
    logits = network.eval()(torch.randint(0, 256, (2, 32, 32, 1), dtype=torch.uint8))
    assert logits.shape == (2, 5)


def test_the_small_stem_keeps_the_resolution():
    small, large = (build_model("resnet10t", **DATA), build_model("resnet18", **DATA))
    assert has_large_stem(large.body)
    assert not has_large_stem(small.body)
    shrunk = build_model("resnet18", small_input=True, **DATA)
    pixels = torch.zeros(2, 3, 32, 32)
    assert large.body.forward_features(pixels).shape[-1] == 1
    assert shrunk.body.forward_features(pixels).shape[-1] == 4


def test_names_are_read_without_importing_timm_and_are_timms():
    assert timm_names() == set(timm.list_models())


def test_no_optimizer_of_timm_is_called_unknown():
    assert not any(optimizer_problem(str(name)) for name in list_optimizers())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "is no model of timm. Allowed: .* Did you mean 'resnet"),
        ("vit_tiny_patch16_244", "Did you mean 'vit_tiny_patch16_224'"),
        ("resnet18.a1_in1k_", ""),
        ("no.such.module:net", "there is no module 'no.such.module'"),
        ("a..b:net", "there is no module 'a..b'"),
        ("tiny_net:", "is no dotted path. Allowed: 'package.module:function'"),
        ("", "is no model of timm"),
    ],
)
def test_a_wrong_name_is_explained(name, message):
    problem = model_problem(name)
    if not message:
        assert not problem
        return
    with pytest.raises(ConfigError, match=message):
        build_model(name, **TINY)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny_net:tiny_ned", {}, "the module 'tiny_net' has no 'tiny_ned'"),
        ("tiny_net:not_a_module", {}, "returned a str; it must return a torch.nn.Module"),
        ("tiny_net:wrong_output", {}, r"shape \(2, 6\) for two images; it must be \(2, 5\)"),
        ("tiny_net:tiny_net", {"depth": 3}, "and model_options {'depth': 3}: .*unexpected keyword"),
        (
            "test_resnet",
            {"colour": "red"},
            "and model_options {'colour': 'red'}: .*unexpected keyword",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_explained(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_model(name, **TINY, **options)


def test_an_image_size_that_does_not_fit_is_explained():
    with pytest.raises(
        ConfigError, match="'test_vit' cannot be built for 20x20 images with 3 channel"
    ):
        build_model("test_vit", **DATA | {"height": 20, "width": 20})


def test_a_small_stem_is_refused_where_there_is_none_to_replace():
    with pytest.raises(ConfigError, match=r"small_input: 'test_vit' has no 7x7/2 stem"):
        build_model("test_vit", small_input=True, **DATA)
