"""Stages that work beside each other: measured once, and nobody stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from chains import conv_chain, images_for

from stages.train.gpipe.company import Crowding, _at_work, _company
from stages.train.gpipe.memory import any_loss


def crowding(cores: int = 2) -> Crowding:
    chain = conv_chain(depth=2)
    return Crowding(
        chain=chain, images=images_for(chain, 4), loss=any_loss, autocast=nullcontext, cores=cores
    )


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_stage_alone_takes_as_long_as_it_takes():
    assert crowding()(1) == 1


def test_company_makes_nothing_faster_and_is_measured_once():
    measured = crowding()
    factor = measured(2)
    assert factor >= 1
    assert measured(2) == factor
    assert set(measured._known) == {1}


def test_more_stages_than_take_turns_on_the_cores_are_not_tried():
    measured = crowding(cores=1)
    assert measured(2) == measured(64)


def test_the_others_work_only_when_asked_to_and_end_with_the_measurement():
    with _company(2) as pids:
        time.sleep(0.05)
        before = [cpu_ticks(pid) for pid in pids]
        time.sleep(0.2)
        assert [cpu_ticks(pid) for pid in pids] == before
        with _at_work(pids):
            while not all(cpu_ticks(pid) > old for pid, old in zip(pids, before, strict=True)):
                time.sleep(0.01)
    assert not any(map(is_there, pids))


def test_they_end_too_where_the_measurement_fails():
    with pytest.raises(RuntimeError, match="no such block"), _company(1) as pids:
        raise RuntimeError("no such block")
    assert not is_there(pids[0])


@pytest.mark.parametrize("busy", ["_at_work", "nullcontext"])
def test_they_end_with_a_process_that_was_killed(busy: str):
    program = (
        "import os, signal\n"
        "from contextlib import nullcontext\n"
        "from stages.train.gpipe.company import _at_work, _company\n"
        f"with _company(1) as pids, {busy}(pids):\n"
        "    print(pids[0], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    pid, patience = int(done.stdout), time.monotonic() + 10
    while is_there(pid) and time.monotonic() < patience:
        time.sleep(0.01)
    assert not is_there(pid)


def test_gradients_and_random_numbers_are_as_before():
    measured, before = crowding(), torch.get_rng_state()
    measured(2)
    assert torch.equal(torch.get_rng_state(), before)
    parameters = [p for block in measured.chain.blocks for p in block.module.parameters()]
    assert all(parameter.grad is None for parameter in parameters)
