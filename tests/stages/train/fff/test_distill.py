"""Distilling: a network that learns to answer as its teacher does."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import ValidationError
from small_vits import FFF, networks, samples
from torch import nn
from torch.nn.functional import softmax

from pipeline.context import Context
from pipeline.errors import Interrupted
from pipeline.events import EventLog
from stages.train.fff.config import ConvertConfig, FffConfig
from stages.train.fff.conversion import Conversion
from stages.train.fff.convert import convert
from stages.train.fff.distill import distill, divergence, likeness, mode_kept


@pytest.fixture
def ctx(tmp_path, recorder, stop):
    return Context(dir=tmp_path, events=EventLog((recorder,)), stop=stop)


def settings(**changes):
    return ConvertConfig.model_validate({"steps": 5, "end_to_end_steps": 40, **changes})


def weights_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def are_equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def learn(teacher, network, ctx, **changes):
    given = samples()
    return distill(teacher, network, settings(**changes), given.endless(), given.held_back, ctx)


def test_the_divergence_is_that_of_the_softened_answers():
    logits, wanted = torch.randn(5, 4), torch.randn(5, 4)
    own, other = (softmax(each / 3, dim=1) for each in (logits, wanted))
    expected = 9 * (other * (other / own).log()).sum(1).mean()
    torch.testing.assert_close(divergence(logits, wanted, 3.0), expected)
    assert divergence(wanted, wanted + 7, 3.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("fff", [FFF, FffConfig(depth=2, trees=4, hardening=0.01)])
def test_the_network_comes_to_answer_as_its_teacher_does(fff, temperature, ctx):
    teacher, network = networks(fff)
    before = weights_of(teacher)
    found = learn(teacher, network, ctx, temperature=temperature, end_to_end_lr=2e-3)
    assert found.samples == 128
    assert found.after.kl < 0.5 * found.before.kl
    assert found.after.same_top1 > found.before.same_top1
    assert likeness(teacher, network, samples().held_back, ctx) == found.after
    assert are_equal(before, weights_of(teacher))


def test_more_steps_bring_a_network_nearer_to_its_teacher(ctx):
    found = []
    for steps in (5, 40):
        teacher, network = networks()
        found.append(learn(teacher, network, ctx, end_to_end_steps=steps).after.kl)
    assert found[1] < found[0]


def test_a_network_is_like_itself(ctx):
    teacher, _ = networks()
    found = likeness(teacher, teacher, samples().held_back, ctx)
    assert (found.same_top1, found.kl) == (1.0, pytest.approx(0, abs=1e-9))


def test_no_steps_leave_the_network_as_its_layers_learned(ctx):
    results = []
    for changes in ({"end_to_end_steps": 0}, {}):
        teacher, network = networks()
        torch.manual_seed(3)
        found = convert(teacher, network, FFF, settings(**changes), samples(), ctx)
        results.append((found, weights_of(network), torch.rand(1)))
    (without, layers_only, drawn), (both, end_to_end, drawn_too) = results
    assert without.end_to_end is None
    assert both.r2 == without.r2
    assert both.end_to_end.after.kl < both.end_to_end.before.kl
    others = [name for name in layers_only if "mlp" not in name]
    teachers = weights_of(networks()[0])
    assert all(torch.equal(layers_only[name], teachers[name]) for name in others)
    assert not any(torch.equal(layers_only[name], end_to_end[name]) for name in others)
    assert drawn == drawn_too


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_streams_alone(ctx):
    learned = []
    for _ in range(2):
        teacher, network = networks(proj_drop_rate=0.3)
        torch.manual_seed(5)
        learn(teacher, network, ctx, end_to_end_steps=6)
        learned.append(weights_of(network))
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))
    assert are_equal(*learned)
    teacher, network = networks(proj_drop_rate=0.3)
    torch.manual_seed(6)
    learn(teacher, network, ctx, end_to_end_steps=6)
    assert not are_equal(learned[0], weights_of(network))


@pytest.mark.parametrize("training", [True, False])
def test_both_networks_go_on_in_the_mode_they_were_in(training, ctx):
    teacher, network = (each.train(training) for each in networks())
    learn(teacher, network, ctx, end_to_end_steps=2)
    for each in (teacher, network):
        assert all(layer.training is training for layer in each.modules())
        assert all(weight.grad is None for weight in each.parameters())
    with pytest.raises(KeyError), mode_kept(network, training=not training):
        raise KeyError
    assert network.training is training


def test_penalties_of_layers_are_part_of_what_is_learned(ctx):
    learned = []
    for balance in (0.0, 10.0):
        teacher, network = networks(FffConfig(depth=2, trees=4, balance=balance))
        learn(teacher, network, ctx, end_to_end_steps=2)
        learned.append(weights_of(network))
    assert not are_equal(*learned)


def test_a_loss_that_is_not_finite_leaves_the_weights_and_warns(ctx, recorder):
    teacher, network = networks()
    before, seen = weights_of(network), []

    def spoil(_: nn.Module, __: object, logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits.requires_grad)
        return logits * float("nan") if sum(seen) == 4 else logits

    network.register_forward_hook(spoil)
    assert learn(teacher, network, ctx) is None
    assert are_equal(before, weights_of(network))
    [said] = recorder.messages("warning")
    assert "end_to_end_lr: after 3 step(s) end to end at a peak of 0.0005" in said


def test_learning_that_leads_away_from_the_teacher_is_taken_back_and_told(ctx, recorder):
    teacher, network = networks()
    learn(teacher, network, ctx, end_to_end_steps=60, end_to_end_lr=2e-3)
    near = weights_of(network)
    found = learn(teacher, network, ctx, end_to_end_steps=3, end_to_end_lr=0.5)
    assert found.taken_back
    assert found.after.kl > found.before.kl
    assert likeness(teacher, network, samples().held_back, ctx) == found.before
    assert are_equal(near, weights_of(network))
    assert "led away from the trained network" in recorder.messages("warning")[-1]
    told = Conversion(r2={}, end_to_end=found)
    assert told.lines()[-1].endswith("; that was worse, so it was taken back")
    assert told.table().caption.endswith("; that was worse, so it was taken back.")


def test_answers_that_are_not_finite_in_the_end_count_as_such_a_loss(ctx, recorder):
    teacher, network = networks()
    before = weights_of(network)

    def spoil(layer: nn.Module, _: object, logits: torch.Tensor) -> torch.Tensor:
        learned = any(not torch.equal(before[n], t) for n, t in layer.state_dict().items())
        return logits * float("nan") if learned and not layer.training else logits

    network.register_forward_hook(spoil)
    assert learn(teacher, network, ctx, end_to_end_steps=3) is None
    assert are_equal(before, weights_of(network))
    assert "after 3 step(s)" in recorder.messages("warning")[0]


@pytest.mark.parametrize("label", ["fff.convert, layers", "fff.convert, end to end"])
def test_a_stop_is_heard_while_layers_learn_and_while_all_do(label, ctx, recorder, stop):
    def ask(event):
        if event.fields.get("label") == label and event.fields["done"] == 2:
            stop.request("a test")

    recorder.on_event = ask
    teacher, network = networks()
    with pytest.raises(Interrupted, match="stopped by a test"):
        convert(teacher, network, FFF, settings(), samples(), ctx)
    steps = [e.fields["done"] for e in recorder.of("progress") if e.fields["label"] == label]
    assert max(steps) == 2


def test_a_batch_may_be_anything_that_both_networks_take(ctx):
    """Token ids, say: (N, L) int32."""

    def network_of(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Embedding(11, 8), nn.Flatten(), nn.Linear(40, 4))

    batches = [torch.randint(0, 11, (16, 5), dtype=torch.int32) for _ in range(4)]
    teacher, network = network_of(0), network_of(1)
    stream = itertools.cycle(batches)
    found = distill(teacher, network, settings(end_to_end_lr=1e-2), stream, batches, ctx)
    assert found.after.kl < found.before.kl


@pytest.mark.parametrize(
    "changes", [{"end_to_end_steps": -1}, {"end_to_end_lr": 0.0}, {"temperature": 0.0}]
)
def test_settings_without_a_meaning_are_refused(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        settings(**changes)
