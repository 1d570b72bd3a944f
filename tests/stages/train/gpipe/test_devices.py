"""The engine of one process: whatever is cut, ordered or computed again, the gradient is the same.

It runs the same cells as every other engine, so what is shown here of cells holds for all.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pipelines import (
    OFF,
    assert_same_bits,
    batch_of,
    conv_net,
    even_bounds,
    learn,
    make,
    on_cpu,
    setup_of,
    twin,
)
from torch import nn

from pipeline.device import CPU, Device
from pipeline.errors import ConfigError, StageFailed
from stages.augment.batch import Batch
from stages.train.gpipe.devices import Devices
from stages.train.gradients import WholeBatch
from stages.train.micro_batches import MicroBatches
from stages.train.precision import FP32, Precision

BLOCKS = len(conv_net())
RECOMPUTE = ["never", "except_last", "always", "blocks"]
SCHEDULES = ["gpipe", "1f1b"]


@st.composite
def bounds(draw: st.DrawFn) -> tuple[int, ...]:
    cuts = draw(st.sets(st.integers(1, BLOCKS - 1), max_size=5))
    return (0, *sorted(cuts), BLOCKS)


@settings(deadline=None, max_examples=60)
@given(
    cuts=bounds(), samples=st.integers(1, 11), mixed=st.booleans(), data=st.data(),
    schedule=st.sampled_from(SCHEDULES), recompute=st.sampled_from(RECOMPUTE),
)  # fmt: skip
def test_gradients_are_those_of_the_whole_network_on_the_whole_batch(
    cuts, samples, mixed, data, schedule, recompute
):
    pieces = data.draw(st.integers(1, samples))
    net, batch = make("conv", torch.float64), batch_of(samples, torch.float64, mixed=mixed)
    expected = learn(net, WholeBatch(net, FP32, CPU, 0.1), batch)
    setup = setup_of(net, cuts, pieces, schedule=schedule, recompute=recompute)
    found = learn(net, on_cpu(setup), batch)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name].double(), expected[name].double(), rtol=1e-6, atol=1e-12
        )


@settings(deadline=None, max_examples=40)
@given(cuts=bounds(), samples=st.integers(1, 11), mixed=st.booleans(), data=st.data())
def test_gradients_that_come_later_are_those_of_the_whole_network_on_the_whole_batch(
    cuts, samples, mixed, data
):
    pieces = data.draw(st.integers(1, samples))
    net, batch = make("conv", torch.float64), batch_of(samples, torch.float64, mixed=mixed)
    expected = learn(net, WholeBatch(net, FP32, CPU, 0.1), batch)
    found = learn(net, on_cpu(setup_of(net, cuts, pieces, schedule="zero_bubble")), batch)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name].double(), expected[name].double(), rtol=1e-6, atol=1e-12
        )


@pytest.mark.parametrize("name", ["conv", "dropout", "norm"])
def test_no_bit_depends_on_stages_schedule_or_recomputation(name):
    net, batch = make(name), batch_of(11, mixed=True)
    alone = twin(net)
    expected = learn(alone, on_cpu(setup_of(alone, (0, len(net)), 4)), batch, steps=2)
    for stages in (1, 3, len(net)):
        for schedule in SCHEDULES:
            for recompute in RECOMPUTE:
                mine = twin(net)
                cuts = even_bounds(len(net), stages)
                setup = setup_of(mine, cuts, 4, schedule=schedule, recompute=recompute)
                assert_same_bits(learn(mine, on_cpu(setup), batch, steps=2), expected)


@pytest.mark.parametrize("name", ["conv", "norm"])
def test_the_bits_are_those_of_plain_accumulation(name):
    net, batch = make(name), batch_of(10, mixed=True)
    plain, piped = twin(net), twin(net)
    expected = learn(plain, MicroBatches(plain, plain, FP32, CPU, 0.1, 4), batch)
    setup = setup_of(piped, even_bounds(len(net), 3), 4, recompute="always")
    assert_same_bits(learn(piped, on_cpu(setup), batch), expected)


def test_masks_differ_between_steps_micro_batches_and_blocks():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Dropout(0.5), nn.Linear(108, 5)).train()
    ones = batch_of(6)
    setup = setup_of(net, (0, 2, 4), 3)
    seen: list[torch.Tensor] = []
    hook = net[1].register_forward_hook(lambda _, given, out: seen.append(out != 0))
    other = net[2].register_forward_hook(
        lambda _, given, out: seen.append((out != 0) | ~given[0].bool())
    )
    seen.clear()
    learn(net, on_cpu(setup), ones, steps=2)
    hook.remove()
    other.remove()
    assert len(seen) == 2 * 3 * 2
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_the_generator_of_the_process_is_left_alone():
    net = make("dropout")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    learn(net, on_cpu(setup_of(net, (0, 4, 8), 2)), batch_of(4))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_batch_norm_statistics_are_of_the_whole_batch_counted_once(recompute):
    net, batch = make("norm", torch.float64), batch_of(12, torch.float64)
    whole, piped = twin(net), twin(net)
    expected = learn(whole, WholeBatch(whole, FP32, CPU, 0.0), batch)
    setup = setup_of(piped, (0, 3, 6, 8), 4, recompute=recompute)
    found = learn(piped, on_cpu(setup), batch)
    for name in ("0.running_mean", "0.running_var"):  # what goes into the first is not normalized
        torch.testing.assert_close(found[name], expected[name], rtol=1e-13, atol=1e-13)
    assert [int(found[f"{k}.num_batches_tracked"]) for k in (0, 2, 5)] == [1, 1, 1]


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_formats_keep_the_bits_and_the_one_loss_scale(precision, recompute):
    net, batch = make("conv"), batch_of(8, mixed=True)
    choice = Precision(name=precision, reason="test")
    results = []
    for stages in (1, 3):
        mine = twin(net)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=precision == "fp16")
        setup = setup_of(
            mine, even_bounds(len(net), stages), 4, recompute=recompute, precision=choice
        )
        results.append(learn(mine, on_cpu(setup), batch, scaler))
    assert_same_bits(*results)
    plain = twin(net)
    expected = learn(plain, WholeBatch(plain, FP32, CPU, 0.1), batch)
    scale = 64 if precision == "fp16" else 1
    for name in ("grad of 0.weight", "grad of 7.weight"):
        difference = results[0][name] / scale - expected[name]
        assert difference.abs().max() < 0.05 * expected[name].abs().max()


def test_the_measured_timeline_has_every_piece_of_work_once():
    net = make("conv")
    engine = on_cpu(setup_of(net, (0, 3, 8), 4, schedule="1f1b"))
    learn(net, engine, batch_of(8))
    timeline = engine.timeline
    assert (timeline.stages, timeline.micro_batches, len(timeline.spans)) == (2, 4, 16)
    assert len({(span.stage, span.work) for span in timeline.spans}) == 16
    assert all(0 <= span.start_s < span.end_s for span in timeline.spans)
    assert 0 < timeline.bubble < 1
    assert all(seconds > 0 for seconds in engine.cpu_s)


class Fails(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.armed = error, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.armed:
            raise self.error
        return x


@pytest.mark.parametrize("place", [1, 4, 8])
def test_a_stage_that_fails_is_named_and_the_others_stop(place):
    net = make("conv")
    net.insert(place, broken := Fails(ValueError("no such thing")))
    engine = on_cpu(setup_of(net, (0, 3, 6, 9), 3))
    broken.armed = True
    stage = {1: 0, 4: 1, 8: 2}[place]
    before = threading.active_count()
    with pytest.raises(
        StageFailed, match=rf"stage {stage} of 0\.\.2 \(.*ValueError: no such thing"
    ):
        engine.backward(batch_of(6), OFF, 0)
    broken.armed = False
    healthy = learn(net, engine, batch_of(6))
    assert "loss" in healthy
    assert threading.active_count() == before - 2


class Sleeps(nn.Module):
    awake = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while not self.awake:
            time.sleep(0.01)
        return x


def test_a_stage_that_keeps_silent_ends_the_step():
    net = make("conv")
    net.insert(0, sleeper := Sleeps())
    engine = on_cpu(setup_of(net, (0, 3, 9), 2, timeout_s=0.3))
    sleeper.awake = False
    with pytest.raises(StageFailed, match=r"stage 0 of 0\.\.1 .*gave no sign for 0.3 s.*resumes"):
        engine.backward(batch_of(4), OFF, 0)
    sleeper.awake = True
    engine.close()


def test_a_batch_smaller_than_its_pieces_is_an_error_with_its_mend():
    net = make("conv")
    engine = on_cpu(setup_of(net, (0, 3, 8), 5))
    with pytest.raises(ConfigError, match="5 pieces cannot be cut from a batch of 4"):
        engine.backward(batch_of(4), OFF, 0)
    engine.close()


@pytest.mark.parametrize("name", ["conv", "dropout", "norm"])
def test_replicas_of_stages_change_no_bit(name):
    plain, copied, batch = make(name), make(name), batch_of(9, mixed=True)
    engines = [
        on_cpu(setup_of(plain, (0, 3, 8), 3)),
        Devices(setup_of(copied, (0, 3, 8), 3), [torch.device("cpu")] * 2, replicate=True),
    ]
    results = []
    for net, engine in zip((plain, copied), engines, strict=True):
        for step in range(3):  # weights change, and a layer is frozen in the last step
            net.zero_grad()
            net[-1].requires_grad_(step < 2)
            loss = engine.backward(batch, OFF, step)
            with torch.no_grad():
                for parameter in net.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
        engine.close()
        results.append({"loss": loss} | dict(net.state_dict()))
    assert_same_bits(*results)


@pytest.mark.gpu
def test_gradients_on_two_gpus_are_those_of_one_cpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    net, batch = make("conv"), batch_of(8)
    whole = twin(net)
    expected = learn(whole, WholeBatch(whole, FP32, CPU, 0.1), batch)
    setup = replace(setup_of(net, (0, 4, 8), 4), device=Device("cuda", 0))
    net.cuda(0)
    devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
    on_gpu = Batch(batch.inputs.cuda(0), batch.targets.cuda(0), batch.index)
    found = learn(net, Devices(setup, devices), on_gpu)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].cpu(), tensor, rtol=1e-3, atol=1e-4)
