"""One training step: the guard inside the optimizer, the scaler, the average."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.device import CPU
from stages.augment.batch import Batch
from stages.train.config import TrainConfig
from stages.train.learner import Learner, build_learner
from stages.train.models.factory import build_model
from stages.train.precision import Precision

STEPS_PER_EPOCH = 6


def learner_of(precision: str = "fp32", **changes: object) -> Learner:
    torch.manual_seed(0)
    module = build_model(
        "stages.train.models.small:small_resnet", classes=3, height=8, width=8, channels=1,
        mean=(0.4,), std=(0.2,), base=4,
    )  # fmt: skip
    recipe = {"schedule": {"name": "constant", "warmup_epochs": 0}, **changes}
    config = TrainConfig.model_validate(recipe)
    choice = Precision(name=precision, reason="test")
    return build_learner(module, config, choice, CPU, STEPS_PER_EPOCH)


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    """Every tensor that a step may change, except the moving average."""
    state = {f"weights {k}": v.clone() for k, v in learner.module.state_dict().items()}
    for number, of_one in learner.optimizer.state_dict()["state"].items():
        state |= {f"optimizer {number} {k}": v.clone() for k, v in of_one.items() if v is not None}
    return state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def spoil(learner: Learner, value: float) -> Callable[[], None]:
    """Make the forward pass give that value until the returned function is called."""
    return learner.module.register_forward_hook(lambda _, __, logits: logits * value).remove


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_step_is_as_if_it_had_never_been(precision, optimizer, value, batch: Batch):
    settings = {"optimizer": {"name": optimizer, "lr": 0.01}}
    good, bad = learner_of(precision, **settings), learner_of(precision, **settings)
    good.step(batch)
    bad.step(batch)
    mend = spoil(bad, value)
    bad.step(batch)
    mend()
    assert same(state_of(good), state_of(bad))
    good.step(batch)
    bad.step(batch)
    assert same(state_of(good), state_of(bad))
    assert bad.look() == (1, True)
    assert good.look() == (0, False)


def test_a_bad_step_is_not_part_of_the_mean_loss(batch: Batch):
    learner = learner_of()
    spoil(learner, float("nan"))
    learner.step(batch)
    assert learner.mean_loss == 0.0


def test_a_scaler_that_overflows_skips_the_step_and_lowers_its_scale(batch: Batch):
    learner = learner_of("fp16")
    learner.step(batch)
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    before = state_of(learner)
    learner.step(batch)
    assert same(before, state_of(learner))
    assert learner.scaler.get_scale() == 2.0**23
    assert learner.look() == (0, False), "looking for the scale is no fault"
    for _ in range(24):
        learner.step(batch)
    assert not same(before, state_of(learner)), "it found a scale and learned"
    assert all(value.isfinite().all() for value in state_of(learner).values())


def test_a_scale_grows_after_enough_good_steps_and_counts_anew_after_an_overflow(batch: Batch):
    learner = learner_of("fp16")
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    scales = []
    for step in range(9):
        mend = spoil(learner, float("inf")) if step == 4 else lambda: None
        learner.step(batch)
        mend()
        scales.append(learner.scaler.get_scale())
    assert scales == [8, 8, 16, 16, 8, 8, 8, 16, 16]


def test_a_skipped_fp16_step_leaves_the_average_where_the_weights_are(batch: Batch):
    learner = learner_of("fp16", ema={"decay": 0.5, "warmup": False})
    assert learner.ema is not None
    learner.step(batch)  # starts the average at the weights
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    learner.step(batch)
    averaged = learner.ema.module.state_dict()
    for name, value in learner.module.state_dict().items():
        torch.testing.assert_close(averaged[name], value)


def test_a_scale_that_fell_to_nothing_is_a_fault(batch: Batch):
    learner = learner_of("fp16")
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-40)
    learner.step(batch)
    assert learner.look() == (0, True)


def test_the_average_is_the_running_mean_that_the_formula_says(batch: Batch):
    learner = learner_of(ema={"decay": 0.9, "warmup": False})
    assert learner.ema is not None
    expected = {name: value.clone() for name, value in learner.module.state_dict().items()}
    for step in range(1, 5):
        learner.step(batch)
        decay = 0.0 if step == 1 else 0.9  # the first step starts the average
        for name, value in learner.module.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    averaged = learner.ema.module.state_dict()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(averaged[name], value)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_clipped_gradient_moves_weights_just_as_far_as_the_limit(
    precision, micro_batches, batch: Batch
):
    plain = {"name": "momentum", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    pieces = {"micro_batches": micro_batches}
    learner = learner_of(precision, optimizer=plain, grad_clip=0.01, parallel=pieces)
    before = torch.cat([p.detach().clone().flatten() for p in learner.module.parameters()])
    moved = 0.0
    for _ in range(40):  # fp16 skips steps until it has found its scale
        learner.step(batch)
        after = torch.cat([p.detach().flatten() for p in learner.module.parameters()])
        moved = float((after - before).norm())
        if moved:
            break
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_bf16_takes_the_same_path_as_fp32_up_to_rounding(batch: Batch):
    fp32, bf16 = learner_of("fp32"), learner_of("bf16")
    for learner in (fp32, bf16):
        for _ in range(3):
            learner.step(batch)
    assert bf16.mean_loss == pytest.approx(fp32.mean_loss, rel=0.05)


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_layout_does_not_change_the_result(channels_last, batch: Batch):
    reference, learner = learner_of(), learner_of(channels_last=channels_last)
    reference.step(batch)
    learner.step(batch)
    assert learner.mean_loss == pytest.approx(reference.mean_loss, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_bad_step_on_a_gpu_changes_nothing_either(batch: Batch):
    from pipeline.device import Device

    learner = learner_of()
    cuda = build_learner(
        learner.module, TrainConfig(), Precision(name="bf16", reason="test"), Device("cuda"), 6
    )
    on_gpu = Batch(batch.inputs.cuda(), batch.targets.cuda(), batch.index.cuda())
    cuda.step(on_gpu)
    before = state_of(cuda)
    spoil(cuda, float("nan"))
    cuda.step(on_gpu)
    assert same(before, state_of(cuda))
