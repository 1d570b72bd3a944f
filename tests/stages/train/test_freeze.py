"""Freezing: what does not learn keeps every bit, its statistics too."""

from __future__ import annotations

import copy

import pytest
import torch

from pipeline.device import CPU
from pipeline.errors import ConfigError
from stages.augment.batch import Batch
from stages.train.config import OptimizerConfig, TrainConfig
from stages.train.finetune_config import FreezeUntil
from stages.train.freeze import plan_freezing
from stages.train.learner import Learner, build_learner
from stages.train.models.classifier import ImageClassifier
from stages.train.models.factory import build_model
from stages.train.optim import build_optimizer
from stages.train.precision import FP32

DATA = {"classes": 3, "height": 32, "width": 32, "channels": 1, "mean": (0.5,), "std": (0.2,)}


@pytest.fixture
def module() -> ImageClassifier:
    torch.manual_seed(0)
    return build_model("test_resnet", **DATA)


@pytest.fixture
def batch() -> Batch:
    images = torch.randint(0, 256, (8, 32, 32, 1), dtype=torch.uint8)
    return Batch(images, torch.arange(8) % 3, torch.arange(8))


def learner_of(module: ImageClassifier, **settings: object) -> Learner:
    config = TrainConfig.model_validate({"schedule": {"warmup_epochs": 0}, "ema": False} | settings)
    learner = build_learner(module, config, FP32, CPU, steps_per_epoch=4)
    learner.freezing = plan_freezing(module, config.freeze, config.unfreeze_after)
    return learner


def changed(learner: Learner, batch: Batch, epoch: int) -> set[str]:
    before = copy.deepcopy(learner.module.body.state_dict())
    learner.begin_epoch(epoch)
    for _ in range(2):
        learner.step(batch)
    after = learner.module.body.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_all_but_the_head_keeps_every_bit_statistics_included(module, batch):
    learner = learner_of(module, freeze="all_but_head")
    assert changed(learner, batch, epoch=0) == {"fc.weight", "fc.bias"}


def test_an_evaluation_in_between_changes_nothing_of_that(module, batch):
    learner = learner_of(module, freeze="all_but_head")
    learner.begin_epoch(0)
    module.eval()
    module.train()
    assert module.training
    assert changed(learner, batch, epoch=0) == {"fc.weight", "fc.bias"}


def test_until_freezes_what_comes_before_and_nothing_after(module, batch):
    learner = learner_of(module, freeze={"until": "layer3"})
    layers = {name.partition(".")[0] for name in changed(learner, batch, epoch=0)}
    assert layers == {"layer3", "layer4", "fc"}


def test_patterns_name_layers_or_parameters(module):
    all_names = {name for name, _ in module.body.named_parameters()}
    freezing = plan_freezing(module, ["layer[12]", "fc.bias"], None)
    wanted = {n for n in all_names if n.startswith(("layer1.", "layer2."))} | {"fc.bias"}
    assert freezing.names == wanted


def test_what_was_frozen_learns_after_its_epochs(module, batch):
    learner = learner_of(module, freeze="all_but_head", unfreeze_after=1, epochs=3)
    assert changed(learner, batch, epoch=0) == {"fc.weight", "fc.bias"}
    assert changed(learner, batch, epoch=1) == set(module.body.state_dict())


def test_a_frozen_front_is_not_differentiated(module, batch):
    learner = learner_of(module, freeze="all_but_head")
    learner.begin_epoch(0)
    assert not module.body.forward_features(module.normalize(batch.inputs)).requires_grad


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["layr1"], "freeze: 'layr1' matches no parameter.* Did you mean 'layer1'"),
        (FreezeUntil(until="layer33"), "until: 'layer33' matches no .* Did you mean 'layer3'"),
        (["*"], "nothing is left that learns"),
    ],
)
def test_a_name_that_fits_nothing_is_explained(module, freeze, message):
    with pytest.raises(ConfigError, match=message):
        plan_freezing(module, freeze, None)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_rates_fall_from_the_head_to_the_first_layer(name):
    body = build_model(name, **DATA).body
    optimizer = build_optimizer(body, OptimizerConfig(lr=1.0, layer_decay=0.5))
    scale_of = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    scales = [scale_of[id(p)] for p in body.parameters()]
    assert len(scale_of) == len(list(body.parameters()))
    assert max(scales) == 1.0
    assert scale_of[id(body.get_classifier().weight)] == 1.0
    assert scales[0] == min(scales) < 0.2


def test_the_schedule_keeps_the_shares_and_tells_the_fastest(module):
    learner = learner_of(module, optimizer={"lr": 0.1, "layer_decay": 0.5}, epochs=2)
    for step in (0, 3, 7):
        learner.schedule.apply(step)
        groups = learner.optimizer.param_groups
        peak = learner.schedule.rate_at(step)
        assert [g["lr"] for g in groups] == pytest.approx([peak * g["lr_scale"] for g in groups])
        assert learner.schedule.lr == pytest.approx(peak)


def test_a_network_that_does_not_know_its_layers_is_refused():
    body = build_model("tiny_net:tiny_net", **DATA | {"height": 8, "width": 8}).body
    with pytest.raises(ConfigError, match=r"TinyNet does not say .* group_matcher\(coarse\)"):
        build_optimizer(body, OptimizerConfig(layer_decay=0.7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze_after": 2}, "has nothing to free"),
        ({"normalization": "pretrained"}, "needs weights to take it from"),
        ({"freeze": "all_but_head", "parallel": {"pipeline": 2}}, "works on whole networks"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate(settings)
