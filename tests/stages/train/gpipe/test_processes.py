"""The engine of several processes: the same bits as in one, and an end with a reason whatever dies.

Processes take seconds to start, so that each test does several things with the same ones.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_pipelines import OFF, assert_same_bits, batch_of, learn, make, on_cpu, setup_of, twin
from timm.layers import BatchNormAct2d
from torch import nn

from pipeline.errors import ConfigError, StageFailed
from stages.train.gpipe.messages import open_tensors, unpack_blocks
from stages.train.gpipe.processes import Processes
from stages.train.gpipe.shared import Shared
from stages.train.gpipe.sharing import SharedStages
from stages.train.gpipe.split import split
from stages.train.models.factory import build_model
from stages.train.precision import Precision

HERE = Path(__file__).parent
TIMEOUT_S = 240.0
"""Far more than needed: what is tested is that nobody waits for so long."""


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    shared, descriptors = named_memory(), len(os.listdir("/proc/self/fd"))
    yield
    assert named_memory() <= shared
    assert not workers_of(os.getpid())
    gc.collect()  # a mapping lives as long as a tensor in it
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def named_memory() -> set[str]:
    """Return the names in shared memory, but for those of servers that other tests may run."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("dlpipe-")}


def workers_of(parent: int) -> list[int]:
    """Return the living worker processes of a process, or of one that has just ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"stages.train.gpipe.worker" in command and state != "Z":
            found += [int(folder.name)] if command[-2] == str(parent).encode() else []
    return found


def test_every_bit_is_that_of_one_process_while_batches_and_frozen_layers_change():
    one, several = (make("norm").insert(3, BatchNormAct2d(4)) for _ in range(2))
    settings = {"recompute": "blocks", "schedule": "1f1b"}
    expected, found = on_cpu(setup_of(one, (0, 2, 5, 9), 3, **settings)), Processes(
        setup_of(several, (0, 2, 5, 9), 3, **settings, timeout_s=TIMEOUT_S), threads=1
    )  # fmt: skip
    try:
        for step, samples in enumerate((8, 8, 11, 8)):
            batch = batch_of(samples, mixed=step % 2 == 0)
            results = []
            for net, engine in ((one, expected), (several, found)):
                net[1].requires_grad_(step < 2)
                net[0].train(step < 3)
                net.zero_grad()
                loss = engine.backward(batch, OFF, step)
                grads = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
                results.append({"loss": loss.clone()} | grads | dict(net.named_buffers()))
            assert_same_bits(*results)
            with torch.no_grad():
                for net in (one, several):
                    for parameter in net.parameters():
                        parameter -= 0.1 * (0 if parameter.grad is None else parameter.grad)
        before = several[1].weight.grad
        assert before is None
        found.backward(batch, OFF, 4)
        once = several[2].weight.grad.clone()
        found.backward(batch, OFF, 4)
        torch.testing.assert_close(several[2].weight.grad, 2 * once)  # gradients are added
        timeline = found.timeline
        assert (timeline.stages, len(timeline.spans)) == (3, 18)
        assert 0 < timeline.bubble < 1
        assert all(seconds > 0 for seconds in found.cpu_s)
    finally:
        expected.close()
        found.close()


def test_gradients_that_come_later_are_those_of_one_process():
    one, several = make("norm"), make("norm")
    expected, found = on_cpu(setup_of(one, (0, 2, 5, 8), 5, schedule="zero_bubble")), Processes(
        setup_of(several, (0, 2, 5, 8), 5, schedule="zero_bubble", timeout_s=TIMEOUT_S), threads=1
    )  # fmt: skip
    try:
        for step, samples in enumerate((8, 11, 8)):
            batch = batch_of(samples, mixed=True)
            results = []
            for net, engine in ((one, expected), (several, found)):
                net[4].requires_grad_(step < 2)
                net.zero_grad()
                loss = engine.backward(batch, OFF, step)
                grads = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
                results.append({"loss": loss.clone()} | grads | dict(net.named_buffers()))
            assert ("4.weight" in results[0]) == (step < 2)
            assert_same_bits(*results)
        kinds = [(span.stage, span.work.kind) for span in found.timeline.spans]
        assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
            [
                *((stage, kind) for stage in range(3) for kind in ("forward", "backward")),
                *((stage, "weights") for stage in (1, 2)),
            ],
            5,
        )
    finally:
        expected.close()
        found.close()


def test_dropout_and_the_loss_scale_reach_every_process():
    net, batch = make("dropout"), batch_of(10)
    choice = Precision(name="fp16", reason="test")
    results = []
    for engine in (on_cpu, lambda setup: Processes(setup, threads=1)):
        mine = twin(net)
        scaler = torch.amp.GradScaler("cpu", init_scale=32.0)
        setup = setup_of(
            mine, (0, 4, 8), 4, recompute="always", precision=choice, timeout_s=TIMEOUT_S
        )
        results.append(learn(mine, engine(setup), batch, scaler, steps=2))
    assert_same_bits(*results)


def test_a_killed_process_is_named_within_seconds():
    engine = Processes(setup_of(make("conv"), (0, 3, 5, 8), 4, timeout_s=TIMEOUT_S), threads=1)
    engine.backward(batch_of(8), OFF, 0)
    victim = engine._crew.members[1].process.pid
    os.kill(victim, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(
        StageFailed,
        match=rf"stage 1 of 0\.\.2 \(3 to 4\).*process {victim}, was killed by SIGKILL.*memory"
        r".*resumes from the last checkpoint",
    ):
        engine.backward(batch_of(8), OFF, 1)
    assert time.monotonic() - started < TIMEOUT_S / 4


def test_what_fails_in_a_process_is_told_with_its_place():
    engine = Processes(setup_of(net := make("conv"), (0, 3, 8), 2, timeout_s=TIMEOUT_S), threads=1)
    batch = batch_of(4)
    engine.backward(batch, OFF, 0)
    assert net[0].weight.grad is not None
    bad = type(batch)(batch.inputs[:, :2], batch.targets, batch.index)
    with pytest.raises(RuntimeError, match="expected input.*to have 3 channels, but got 2"):
        engine.backward(bad, OFF, 1)


def test_layers_that_cannot_be_sent_are_an_error_with_its_mend():
    class Local(nn.Identity):
        pass

    net = make("conv").insert(0, Local())
    with pytest.raises(StageFailed, match=r"stage 0 .* cannot be sent: .*Local.* engine: devices"):
        Processes(setup_of(net, (0, 3, 9), 2), threads=1)


def test_one_value_per_channel_in_a_process_is_the_users_to_mend():
    net = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 5)
    ).train()
    engine = Processes(setup_of(net, (0, 2, 4), 3, timeout_s=TIMEOUT_S), threads=1)
    with pytest.raises(ConfigError, match="one value a channel.*Use fewer micro-batches"):
        engine.backward(batch_of(3), OFF, 0)


def test_workers_end_with_a_parent_that_is_killed():
    parent = subprocess.Popen(
        [sys.executable, str(HERE / "working_parent.py")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "working\n"
    workers = workers_of(parent.pid)
    assert len(workers) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while workers_of(parent.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers_of(parent.pid)


def test_what_is_sent_of_a_traced_network_holds_no_weights():
    net = build_model(
        "test_resnet", classes=5, height=32, width=32, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3
    ).train()  # fmt: skip
    images = torch.randint(255, (2, 32, 32, 3), dtype=torch.uint8)
    chain = split(net, images)
    shared = SharedStages([chain.blocks[:3], chain.blocks[3:]])
    packed = shared.pack(0)
    assert len(packed) < 100_000 < sum(p.nbytes for p in net.parameters())
    blocks = unpack_blocks(packed, open_tensors(shared.records[0], shared.memory))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01  # seen by both
        here = there = (images,)
        for mine, sent in zip(chain.blocks[:3], blocks, strict=True):
            here, there = mine(here), sent(there)
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
    shared.memory.close()


def test_shared_memory_has_no_name():
    shared = Shared.of_size(1 << 20)
    assert "memfd" in os.readlink(f"/proc/self/fd/{shared.fd}")
    shared.close()
